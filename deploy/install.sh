#!/bin/sh
# Everything that the lab, the tests and the checks need on Debian 12: system packages and a virtual
# environment. May be repeated; when everything is there it takes a fraction of a second.
#   install.sh             the Python packages of both locks, by their hashes
#   install.sh kube        and what the bed of real Kubernetes needs (`make e2e`)
#   install.sh soak        and what the tests in full length need (`make soak`)
#   install.sh runtime     only what a node needs: those of requirements.lock
#   install.sh newest      the newest Python packages that pyproject.toml allows, each time
#   install.sh versions    prints the versions of the system packages, and installs nothing
set -eu
cd "$(dirname "$0")/.."
VENV=${VENV:-.venv}
PACKAGES="bird2 bpftool ca-certificates clang clang-format containernetworking-plugins curl etcd-client
etcd-server frr git gobgpd iperf3 iproute2 iptables iputils-ping libbpf-dev libbpf1 linux-libc-dev make
musl-tools nftables procps python3 python3-venv tcpdump util-linux"

# Container runtime and plugins come from Go modules (tests/tools/kube), runc from Debian; the others
# are programs in the images of the bed.
KUBE_PACKAGES="bind9-dnsutils busybox-static conntrack iperf ipset libc6-dev netcat-openbsd runc
wget"

# The processes whose clock a test sets run with it.
SOAK_PACKAGES="libfaketime"

missing_packages() {
	for name in $PACKAGES; do
		dpkg-query -W -f '${Status}' "$name" 2>/dev/null | grep -q 'ok installed' || echo "$name"
	done
}

# The lab starts its own etcd and FRR; the packages must not start theirs.
quiet_services() {
	[ -e /usr/sbin/policy-rc.d ] && return
	printf '#!/bin/sh\nexit 101\n' >/usr/sbin/policy-rc.d
	chmod 755 /usr/sbin/policy-rc.d
	trap 'rm -f /usr/sbin/policy-rc.d' EXIT
}

install_packages() {
	missing=$(missing_packages)
	[ -n "$missing" ] || return 0
	if [ "$(id -u)" -ne 0 ]; then
		echo "install: these packages are missing and need root:" $missing >&2
		exit 1
	fi
	echo "install: system packages:" $missing
	quiet_services
	export DEBIAN_FRONTEND=noninteractive
	apt-get -qq update
	apt-get -qq -o Dpkg::Use-Pty=0 install -y --no-install-recommends $missing
}

make_venv() {
	[ -x "$VENV/bin/python" ] && return
	echo "install: virtual environment $VENV"
	/usr/bin/python3 -m venv "$VENV"
}

pip_install() {
	"$VENV/bin/python" -m pip install -q --disable-pip-version-check "$@"
}

install_locked() {
	stamp=$VENV/.installed
	locks=$1
	wanted=$(sha256sum pyproject.toml $locks | sha256sum | cut -d' ' -f1)
	[ "$(cat "$stamp" 2>/dev/null)" = "$wanted" ] && return
	make_venv
	echo "install: Python packages (about a minute)"
	pip_install --require-hashes $(printf -- '-r %s ' $locks)
	# requirements.lock holds setuptools, so pip must not fetch another one to build the project.
	pip_install --no-deps --no-build-isolation -e .
	echo "$wanted" >"$stamp"
	echo "install: done, the command is $VENV/bin/meshgate"
}

install_newest() {
	rm -f "$VENV/.installed" # if someone names the locked environment, it is locked no more
	make_venv
	echo "install: the newest Python packages (about a minute)"
	pip_install --upgrade --upgrade-strategy eager -e '.[dev]'
}

versions() {
	dpkg-query -W -f '${Package} ${Version}\n' $PACKAGES
}

case ${1:-locked} in
locked)
	install_packages
	install_locked 'requirements.lock requirements-dev.lock'
	;;
kube)
	PACKAGES="$PACKAGES $KUBE_PACKAGES"
	install_packages
	install_locked 'requirements.lock requirements-dev.lock'
	;;
soak)
	PACKAGES="$PACKAGES $SOAK_PACKAGES"
	install_packages
	install_locked 'requirements.lock requirements-dev.lock'
	;;
runtime)
	install_packages
	install_locked requirements.lock
	;;
newest)
	install_packages
	install_newest
	;;
versions) versions ;;
*)
	echo "install: unknown word $1; expected kube, soak, runtime, newest or versions" >&2
	exit 2
	;;
esac
