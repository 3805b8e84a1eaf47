# shellcheck shell=bash disable=SC2034
# Sourced by compose/quickstart, tests/run and bench/run: Debian packages, installed only when missing, so that a second run
# needs no network and no root.

PACKAGES_SECONDS_MAX=900

# What compiles and runs Weir.
packages_build=(gcc libc6-dev cmake ninja-build pkgconf ca-certificates
    librdkafka-dev libavro-dev libsqlite3-dev libpq-dev libcurl4-openssl-dev libmicrohttpd-dev libjansson-dev
    libssl-dev libjemalloc-dev)
# What fetches and runs Kafka.
packages_kafka=(maven default-jre-headless)
# What only the tests need. prometheus is there for promtool, the JDK for the sample producer in Java; of postgresql the
# programs are used, the cluster that comes with it stays as it is.
packages_tests=(clang libclang-rt-dev llvm libcmocka-dev python3 python3-venv default-jdk-headless prometheus
    postgresql pgbouncer)

packages_say()
{
    echo "${0##*/}: $*" >&2
}

package_is_installed()
{
    [[ $(dpkg-query -W -f='${db:Status-Status}' "$1" 2>/dev/null) == installed ]]
}

packages_as_root()
{
    if [[ $(id -u) == 0 ]]; then
        "$@"
    elif command -v sudo >/dev/null; then
        sudo "$@"
    else
        packages_say "packages are missing and there is neither root nor sudo here"
        return 69
    fi
}

# packages_install NAME...: returns 69, with what failed on stderr, if they cannot be had.
packages_install()
{
    local name policy=/usr/sbin/policy-rc.d made='' status=0
    local -a missing=()
    if ! command -v dpkg-query >/dev/null || ! command -v apt-get >/dev/null; then
        packages_say "no Debian here: these must be there already, under whatever names: $*"
        return 0
    fi
    for name in "$@"; do
        package_is_installed "$name" || missing+=("$name")
    done
    [[ ${#missing[@]} -gt 0 ]] || return 0

    packages_say "installing ${missing[*]}"
    # Nothing that comes along may start a service on this machine.
    if [[ ! -e $policy ]]; then
        printf '#!/bin/sh\nexit 101\n' | packages_as_root tee "$policy" >/dev/null || return 69
        packages_as_root chmod 755 "$policy"
        made=yes
    fi
    packages_as_root timeout "$PACKAGES_SECONDS_MAX" env DEBIAN_FRONTEND=noninteractive \
        apt-get -q -o DPkg::Lock::Timeout=300 -o Acquire::Retries=3 update >&2 </dev/null &&
        packages_as_root timeout "$PACKAGES_SECONDS_MAX" env DEBIAN_FRONTEND=noninteractive \
            apt-get -qy -o DPkg::Lock::Timeout=300 -o Acquire::Retries=3 -o Dpkg::Use-Pty=0 \
            -o DPkg::Options::=--force-confdef -o DPkg::Options::=--force-confold \
            install --no-install-recommends "${missing[@]}" >&2 </dev/null || status=69
    [[ -z $made ]] || packages_as_root rm -f "$policy"
    [[ $status == 0 ]] || packages_say "could not install ${missing[*]}"
    return "$status"
}

# The ccache launcher where there is one: the second build of the day is then a matter of seconds.
packages_cmake_launcher()
{
    if command -v ccache >/dev/null; then
        echo -DCMAKE_C_COMPILER_LAUNCHER=ccache
    fi
}
