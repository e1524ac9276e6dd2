#!/usr/bin/env bash
# Certificates for a federation: an authority, the server's certificate for its
# host names or addresses, one for the processes of a client among themselves,
# and a key pair for each client. For tests and small federations; who has an
# authority of their own uses that.
#
#   launch/flower/certificates.sh FOLDER CLIENTS HOST...
set -euo pipefail
[ "$#" -ge 3 ] || { sed -n '2,8s/^# \{0,1\}//p' "$0" >&2; exit 2; }
folder=$1 clients=$2
shift 2
umask 077
mkdir -p "$folder"
cd "$folder"

names=
for host in "$@"; do
  [[ $host =~ ^[0-9.]+$|: ]] && kind=IP || kind=DNS
  names+="${names:+,}$kind:$host"
done

key() { openssl genpkey -quiet -algorithm EC -pkeyopt ec_paramgen_curve:P-384 -out "$1"; }

key authority.key
openssl req -x509 -new -key authority.key -days 365 -subj /CN=hns-authority \
  -addext basicConstraints=critical,CA:true -out authority.crt
certificate() {  # NAME, and what it is for
  key "$1.key"
  openssl req -new -key "$1.key" -subj "/CN=hns-$1" -out "$1.csr"
  openssl x509 -req -in "$1.csr" -CA authority.crt -CAkey authority.key \
    -CAcreateserial -days 365 -out "$1.crt" \
    -extfile <(printf 'subjectAltName=%s\n' "$2") 2>/dev/null
  rm "$1.csr"
}
certificate server "$names"
certificate local IP:127.0.0.1
for ((i = 0; i < clients; i++)); do
  rm -f "client-$i" "client-$i.pub"
  ssh-keygen -q -t ecdsa -b 384 -N '' -C "client-$i" -f "client-$i"
done
echo "$PWD: authority.crt for all, server.crt and server.key for the server," \
  "local.crt, local.key and client-I for client I, client-I.pub to register it"
