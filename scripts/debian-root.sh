# shellcheck shell=bash
# Sourced by scripts that make container images of the distribution's packages.

# as_root COMMAND... runs a command as root.
as_root() {
  if ((EUID == 0)); then "$@"; else sudo -n "$@"; fi
}

# debian_root DIR PACKAGES makes the root folder of a small Debian with these packages, commas between them. It installs
# debootstrap if that is missing, and prints only errors.
debian_root() {
  local mirror codename=bookworm log
  if [[ $(. /etc/os-release && echo "$ID") == debian ]]; then codename=$(. /etc/os-release && echo "$VERSION_CODENAME"); fi
  # The mirror that this machine installs from; debootstrap's own where that is another release or not plain HTTP.
  mirror=$(apt-get indextargets --format '$(CODENAME) $(REPO_URI)' 'Created-By: Packages' |
    sed -nE "s,^$codename (https?://.*),\1,p" | sed -n 1p)
  if ! command -v debootstrap >/dev/null && [[ ! -x /usr/sbin/debootstrap ]]; then
    "$(dirname "${BASH_SOURCE[0]}")/apt-install.sh" debootstrap >&2
  fi
  if ! log=$(as_root env PATH="$PATH:/usr/sbin:/sbin" debootstrap --variant=minbase --include="$2" "$codename" "$1" ${mirror:+"$mirror"} 2>&1); then
    echo "$log" >&2
    return 1
  fi
}
