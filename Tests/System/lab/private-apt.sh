# shellcheck shell=bash
# An apt of our own beside the system's: to download packages of suites that the system does not
# use (backports) without touching its configuration, lists or packages.
#
# The mirror is the one that the system's apt already uses, so that the lab also works where
# that mirror is the only way out. Source this file; it needs `die MESSAGE...` from its user.
#
#   private_apt_setup DIR SUITE  writes the configuration into DIR and updates the lists there: those
#                                of SUITE, which the calls below prefer, and, where SUITE belongs to
#                                the system's own release, those of the system
#   private_apt_fetch DIR PACKAGE...
#                                downloads into DIR/archives each PACKAGE, and what it depends on
#                                as far as the system lacks it
#   private_apt_fetch_all DIR PACKAGE...
#                                the same, with all that it depends on, of the system's own release
#   private_apt_download DIR PACKAGE...
#                                downloads each PACKAGE alone into DIR/archives
#   private_apt_depends DIR PACKAGE
#                                prints the names of the packages that PACKAGE depends on

readonly private_apt_release=bookworm
readonly private_apt_keyring=/usr/share/keyrings/debian-archive-keyring.gpg

private_apt_setup() {
  local dir=$1 sources pause
  private_apt_suite=$2
  mkdir -p "$dir/lists/partial" "$dir/archives/partial"
  sources=$(private_apt_sources)
  # A system whose lists were never read, or were removed.
  for pause in 0 5 30 90; do
    [[ -z $sources ]] || break
    sleep "$pause"
    apt-get -qq update || true
    sources=$(private_apt_sources)
  done
  [[ -n $sources ]] ||
    die "apt knows no source of Debian $private_apt_release, whose packages the lab boots:" \
      "add one and run 'apt-get update', or set QEMU and KERNEL to your own files"
  printf '%s\n' "$sources" >"$dir/sources.list"
  # In the end a list that nobody reads anything from may be missing.
  private_apt_again "$dir" private_apt_update "$dir" || private_apt "$dir" apt-get -qq update ||
    die "apt-get could not read the sources in $dir/sources.list"
}

# A list that could not be read is a failure, which it is not to apt-get.
private_apt_update() {
  private_apt "$1" apt-get -qq -o APT::Update::Error-Mode=any update
}

# private_apt_again DIR COMMAND...: what fails is tried again after a while, with new lists: a mirror may be
# in the middle of an update.
private_apt_again() {
  local dir=$1 pause
  shift
  "$@" && return
  for pause in 5 30 90; do
    echo "trying again in $pause s: $*" >&2
    sleep "$pause"
    private_apt_update "$dir" || true
    "$@" && return
  done
  return 1
}

# The system's own sources of this release, unless the suite is another's (one system does not mix
# two), and the suite from where the first of them is.
private_apt_sources() {
  local option=
  [[ -r $private_apt_keyring ]] && option="[signed-by=$private_apt_keyring] "
  # shellcheck disable=SC2016 # the dollar signs are apt's
  apt-get indextargets --format '$(CODENAME) $(REPO_URI)' 'Created-By: Packages' |
    awk -v release=$private_apt_release -v suite="$private_apt_suite" -v option="$option" '
      $1 == release { print "deb " option $2, suite, "main" }
      index(suite, release) == 1 && index($1, release) == 1 && $1 != suite {
        print "deb " option $2, $1, "main"
      }' | sort -u
}

private_apt_fetch() {
  local dir=$1
  shift
  # --reinstall: also what the system has, since the lab wants a copy of its own.
  private_apt_again "$dir" private_apt "$dir" \
    apt-get -qq -y --no-install-recommends --reinstall --download-only \
    -t "$private_apt_suite" install "$@" >/dev/null || die "apt-get could not download $*"
}

private_apt_fetch_all() {
  local dir=$1
  shift
  # As if nothing were installed.
  private_apt_again "$dir" private_apt "$dir" apt-get -qq -y --no-install-recommends --download-only \
    -o Dir::State::status=/dev/null install "$@" >/dev/null || die "apt-get could not download $*"
}

private_apt_download() {
  local dir=$1
  shift
  (cd "$dir/archives" &&
    private_apt_again "$dir" private_apt "$dir" apt-get -qq -t "$private_apt_suite" download "$@" >/dev/null) ||
    die "apt-get could not download $*"
}

private_apt_depends() {
  private_apt "$1" apt-cache --important depends "$2" | sed -n 's/^ *Depends: //p'
}

# private_apt DIR COMMAND ARGUMENT...: an apt command that sees DIR in place of the system's sources,
# lists and preferences.
private_apt() {
  local dir=$1 command=$2
  shift 2
  "$command" \
    -o Dir::Etc::SourceList="$dir/sources.list" -o Dir::Etc::SourceParts=/dev/null \
    -o Dir::Etc::Preferences=/dev/null -o Dir::Etc::PreferencesParts=/dev/null \
    -o Dir::State::Lists="$dir/lists" \
    -o Dir::Cache="$dir" -o Dir::Cache::Archives="$dir/archives" \
    -o Acquire::Languages=none -o Acquire::Retries=5 -o Acquire::http::Timeout=60 \
    -o APT::Sandbox::User=root "$@"
}
