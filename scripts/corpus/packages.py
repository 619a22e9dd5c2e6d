from __future__ import annotations

KDE: list[str] = """
akonadi-import-wizard akregator ark artikulate blinken bluedevil bomber bovo calligraplan cantor
cervisia choqok dolphin dragonplayer elisa filelight granatier gwenview juk k3b-i18n kaddressbook
kajongg kalarm kalgebra-common kalzium-data kamera kamoso kanagram kapman kapptemplate kate5-data
katomic kbackup kbibtex-data kblackbox kblocks kbounce kbreakout kbruch kcachegrind kcalc
kcharselect kde-cli-tools-data kde-config-cddb kde-config-cron kde-config-tablet kde-spectacle
kdeconnect kdenlive-data kdepim-runtime kdepim-themeeditors kdesvn kdevelop-data kdf kdiamond
kdiff3-doc kdoctools5 keditbookmarks kexi-data kfind kfloppy kfourinline kgamma5 kgeography-data
kgeotag kget kgoldrunner kgpg khangman khelpcenter khotkeys-data kid3 kig kigo kile-doc killbots
kimagemapeditor kinfocenter kio kio-audiocd kio-extras-data kio-gdrive kio-gopher kiriki kiten
kjumpingcube kleopatra klickety klines kmag kmahjongg kmail kmenuedit kmines kmix kmousetool kmouth
kmplot kmymoney-common knavalbattle knetwalk knights knotes kolf kollision kolourpaint kompare
konqueror konquest konsole konsolekalendar kontact kontrast konversation-data korganizer kpat
kphotoalbum krdc kreversi krfb kronometer kruler krusader kshisen ksirk ksnakeduel kspaceduel
ksquares ksudoku ksystemlog kteatime ktechlab ktimer ktimetracker ktorrent-data ktouch-data kturtle
kubrick kwalletmanager kwave kwin-data kwordquiz kwrite libkf5kdelibs4support-data lokalize
lskat-data marble-data okteta okular palapeli-data parley-data partitionmanager picmi
pim-data-exporter pim-sieve-editor plasma-desktop-data plasma-pa plasma-workspace-data
powerdevil-data rkward-data rocs rsibreak skanlite skrooge-common step sweeper systemsettings
tellico-doc umbrello-data
""".split()  # noqa: SIM905 (a literal list would take 700 lines)
HELP: list[str] = """
accerciser aisleriot amide anjuta-common atril-common baobab bijiben brasero-common burner-common
caja-actions-common cheese-common d-feet dasher-data deja-dup devhelp-common diffuse drawing
easytag endeavour-common engrampa-common eog eom-common epiphany-browser-data evince-common
evolution-common file-roller five-or-more font-manager-common four-in-a-row frogr-data galois
gbrainy gdm3 geary gedit-common gedit-plugin-bookmarks gedit-plugin-bracket-completion
gedit-plugin-character-map gedit-plugin-code-comment gedit-plugin-color-picker
gedit-plugin-draw-spaces gedit-plugin-git gedit-plugin-join-lines gedit-plugin-multi-edit
gedit-plugin-session-saver gedit-plugin-synctex gedit-plugin-terminal gedit-plugin-text-size
gedit-plugin-word-completion gedit-plugins-common ghex giggle glabels-data glade glom-doc
gnome-2048 gnome-applets-data gnome-boxes gnome-calculator gnome-chess gnome-clocks
gnome-color-manager gnome-commander-data gnome-connections gnome-desktop3-data gnome-devel-docs
gnome-dictionary gnome-klotski gnome-logs gnome-mahjongg gnome-mastermind gnome-mines gnome-music
gnome-nettool gnome-nibbles gnome-panel-data gnome-photos gnome-robots gnome-sudoku
gnome-system-log gnome-system-monitor gnome-system-tools gnome-taquin gnome-terminal-data
gnome-tetravex gnome-text-editor gnome-video-arcade gnote gnucash-docs gnumeric-doc goobox
gparted-common grilo-plugins-0.3 gthumb-data gtk-doc-tools gtkmm-documentation gtranslator
gucharmap gvb hamster-time-tracker hitori iagno jhbuild krb5-auth-dialog kupfer latexila-data
lightsoff malcontent-gui mate-applets-common mate-calc-common mate-control-center-common
mate-panel-common mate-power-manager-common mate-sensors-applet-common mate-system-monitor-common
mate-terminal-common mate-user-guide mate-user-share-common mate-utils-common meld metadata-cleaner
modem-manager-gui-help ocrfeeder orca oregano parlatype pitivi pluma-common pluma-plugin-bookmarks
pluma-plugin-bracketcompletion pluma-plugin-codecomment pluma-plugin-synctex pluma-plugin-terminal
pluma-plugin-wordcompletion pluma-plugins-common polari pulseeffects quadrapassel rhythmbox-data
seahorse shotwell-common simple-scan sound-juicer swell-foop synaptic sysprof tali telegnome
totem-common vinagre xiphos-data zenity-common
""".split()  # noqa: SIM905 (a literal list would take 700 lines)
MANMISC: list[str] = """
acheck acheck-rules acpi adduser amule amule-daemon amule-utils amule-utils-gui apper apt apt-build
apt-listchanges apt-show-source apt-show-versions apt-src apt-utils aptitude-common ark asclock
auto-multiple-choice-common awesome bambam bambootracker base-passwd berusky bilibop-common
bilibop-lockfs bilibop-rules bootlogd cervisia colobot cron-apt cryptmount cups cups-bsd
cups-client cups-daemon cups-ipp-utils cups-ppdc cups-server-common davfs2 ddtc debarchiver
debconf-doc debconf-i18n debconf-utils debhelper debian-goodies debian-reference-common debianutils
deborphan debsums devscripts dfc dgedit diffuse dnsmasq-base dnsmasq-base-lua doc-base dos2unix
dpkg dpkg-dev dragonplayer drumgizmo drumkv1 dselect dvdisaster dvgrab einstein extremetuxracer
fakeroot fbtv fortunes-de fragmaster freetable galois ghostscript giada gliv goobox gputils
gramophone2 gtkatlantic help2man hping3 icmpush ifcico imgvtopgm inetsim isoquery jpegpixi kaffeine
kbackup kbibtex-data kde-spectacle kded5 kdesdk-scripts kdesvn kdiff3 kdoctools5 keditbookmarks
kfind kgendesignerplugin-bin kid3-core kig kinit kio kiwix-tools kmag kmod kmousetool kmouth kmplot
kmymoney kpackagetool5 kpat kronometer kross kvirc le-dico-de-rene-cougnenc libcamomile-ocaml-dev
libcups2-dev libembperl-perl libkf5configwidgets-data libkf5jsembed-dev libkf5kdelibs4support5-bin
libkf5kjs-dev libkf5service-bin liblocal-lib-perl liferea linkchecker linux-base linuxinfo
live-boot-doc live-build live-clone live-config-doc live-tools locales login loook lpe man-db
man2html man2html-base mbmon mc-data mediathekview mencoder menu modem-manager-gui module-assistant
mpgtx mplayer mplayer-gui multistrap muttprint myrescue nano-tiny net-tools nmap
open-infrastructure-system-boot open-infrastructure-system-config padthv1 page-crunch passwd
pdf2djvu pentobi plasma-framework plasma-sdk po-debconf po4a polyphone powermanga poxml pppconfig
procps psmisc pt2-clone python3-mecavideo python3-pysnmp4-mibs qelectrotech qjackctl qmidiarp
qmidinet qmidiroute qnapi qsampler qsynth qtractor qxgedit reptyr restartd rkward-data rlinetd
rpm-i18n rubber samplv1 scantv schroot seahorse-adventures secure-delete sensible-utils sgt-puzzles
sitecopy sl slimevolley smstools sonic-visualiser streamer svn-buildpackage swami synaptic synthv1
sysvinit-core tcpick tecnoballz tilix tk-brief torcs ttv tvtime txt2pdbdoc uidmap unhide v4l-conf
vdr-plugin-epgsearch verbiste verbiste-gtk vim-common vim-gui-common vobcopy w3m wbar wcd
weechat-curses weechat-headless wesnoth-1.16-server whohas wine wine64-tools wizznic worker
wxmaxima xawtv xine-console xine-ui xmbmon xmountains xskat xxd xz-utils ytree zita-at1 zita-rev1
""".split()  # noqa: SIM905 (a literal list would take 700 lines)
