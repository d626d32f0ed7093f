#!/bin/bash
# A libvirtd of its own, in mount, network and process namespaces of its own (init of which this is, so that all of it ends
# with it). Its TCP socket, for migrations, has the port given. Reads commands from standard input: `start` starts the daemon, whose end it does not mind.
set -euo pipefail
ip link set lo up
for folder in /run/libvirt /var/lib/libvirt /var/log/libvirt /var/cache/libvirt; do
    mkdir -p "$folder"
    mount -t tmpfs private "$folder"
done
mkdir -p /var/lib/libvirt/images
mount -t tmpfs private /etc/libvirt
cat > /etc/libvirt/qemu.conf << END
user = "root"
group = "root"
security_driver = "none"
namespaces = []
cgroup_controllers = []
stdio_handler = "file"
END
cat > /etc/libvirt/libvirtd.conf << END
listen_tls = 0
listen_tcp = 1
listen_addr = "127.0.0.1"
tcp_port = "$1"
auth_tcp = "none"
auth_unix_ro = "none"
auth_unix_rw = "none"
host_uuid = "$(cat /proc/sys/kernel/random/uuid)"
log_outputs = "3:file:/var/log/libvirt/libvirtd.log"
END
while read -r command; do
    case "$command" in
        start) libvirtd --listen --pid-file /run/libvirt/libvirtd.pid < /dev/null > /dev/null 2>&1 & ;;
    esac
done
