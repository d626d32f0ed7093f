//! Sessions to storage servers: iSCSI, NVMe over a network; ports of Fibre Channel.
//!
//! Sources: kernel `drivers/scsi/scsi_transport_iscsi.c` (`iscsi_session_state_names`, connection attributes),
//! `drivers/nvme/host/sysfs.c` (`nvme_sysfs_show_state`, `address`), `drivers/scsi/scsi_transport_fc.c` (`fc_remote_ports`).

use super::{names, word};
use crate::HostRoot;

/// An iSCSI session. Each value is `None` where it was not there or could not be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IscsiSession {
    /// `session1`; part of the sysfs path of its disks.
    pub name: String,
    /// `LOGGED_IN`, `FAILED`, `FREE`.
    pub state: Option<String>,
    /// Name of the target (IQN).
    pub target: Option<String>,
    /// Address and port of the portal.
    pub portal: Option<String>,
    /// How long I/O is held while the session is down, before it fails, seconds; negative: for ever.
    pub recovery_secs: Option<i64>,
}

/// A controller of NVMe over a network.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NvmeController {
    /// `nvme0`.
    pub name: String,
    /// `live`, `connecting`, `resetting`, `dead`, …
    pub state: Option<String>,
    /// `tcp`, `rdma`, `fc`.
    pub transport: String,
    /// Address and port of the server.
    pub portal: Option<String>,
    /// Name of the subsystem (NQN); shared by the controllers that are paths to one thing.
    pub subsystem: Option<String>,
}

/// A port at the other end of Fibre Channel. Each name is `None` where it could not be read, or is none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FcRemotePort {
    /// Name in sysfs: `rport-7:0-2`; part of the sysfs path of its disks. It is the node's own count.
    pub name: String,
    /// World wide name of what the port belongs to, an array or a controller of it: `0x200000a098abcdef`.
    pub node_name: Option<String>,
    /// World wide name of the port.
    pub port_name: Option<String>,
}

/// The remote ports of Fibre Channel, by name; empty where there are none.
pub fn read_fc_remote_ports(root: &HostRoot) -> Vec<FcRemotePort> {
    let read = |name: String| {
        let world_wide = |file: &str| {
            let text = word(root, format!("sys/class/fc_remote_ports/{name}/{file}"))?;
            let number = u64::from_str_radix(text.strip_prefix("0x")?, 16).ok()?;
            (number != 0 && number != u64::MAX).then_some(text)
        };
        FcRemotePort { node_name: world_wide("node_name"), port_name: world_wide("port_name"), name }
    };
    names(root, "sys/class/fc_remote_ports").into_iter().map(read).collect()
}

/// The iSCSI sessions, by name; empty where there are none.
pub fn read_iscsi_sessions(root: &HostRoot) -> Vec<IscsiSession> {
    let sessions = names(root, "sys/class/iscsi_session");
    if sessions.is_empty() {
        return Vec::new();
    }
    let connections = names(root, "sys/class/iscsi_connection");
    let read = |name: String| {
        let text =
            |file: &str| word(root, format!("sys/class/iscsi_session/{name}/{file}")).filter(|text| text != "<NULL>");
        let number = name.strip_prefix("session").unwrap_or_default();
        let own = connections.iter().find(|connection| {
            connection.strip_prefix("connection").and_then(|rest| rest.split(':').next()) == Some(number)
        });
        let portal = own.and_then(|connection| {
            // `persistent_*` is what was asked for; `address` is empty while the connection is down.
            let text = |file: &str| {
                word(root, format!("sys/class/iscsi_connection/{connection}/{file}")).filter(|text| text != "<NULL>")
            };
            let either = |one: &str, other: &str| text(one).or_else(|| text(other));
            let address = either("persistent_address", "address")?;
            Some(match either("persistent_port", "port") {
                Some(port) => format!("{address}:{port}"),
                None => address,
            })
        });
        IscsiSession {
            state: text("state"),
            target: text("targetname"),
            recovery_secs: text("recovery_tmo").and_then(|text| text.parse().ok()),
            portal,
            name,
        }
    };
    sessions.into_iter().map(read).collect()
}

/// The controllers that reach their server over a network, by name; empty where there are none.
pub fn read_nvme_controllers(root: &HostRoot) -> Vec<NvmeController> {
    let read = |name: String| {
        let text = |file: &str| word(root, format!("sys/class/nvme/{name}/{file}"));
        let transport = text("transport").filter(|kind| kind != "pcie" && kind != "loop")?;
        // `traddr=10.0.0.5,trsvcid=4420,src_addr=10.0.0.1`
        let address = text("address").unwrap_or_default();
        let part = |key: &str| address.split(',').find_map(|part| part.trim().strip_prefix(key)?.strip_prefix('='));
        let portal = part("traddr").map(|host| match part("trsvcid") {
            Some(port) => format!("{host}:{port}"),
            None => host.to_owned(),
        });
        Some(NvmeController { state: text("state"), subsystem: text("subsysnqn"), transport, portal, name })
    };
    names(root, "sys/class/nvme").into_iter().filter_map(read).collect()
}
