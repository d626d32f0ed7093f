//! What commands printed on a node: `systemctl`, `virsh`, `ps`, `df` and others, into findings.
