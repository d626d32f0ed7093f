//! The sockets of device plugins, and when they were made.
//!
//! A kubelet that starts empties this folder and makes its own `kubelet.sock`; every plugin has to come back by itself. So the times
//! of the files tell what has come back since. Source: kubelet `pkg/kubelet/cm/devicemanager/plugin/v1beta1/server.go`.

use super::{KUBELET_ROOT, KubeletArgs};
use crate::{HostRoot, ReadError};

/// A socket in the folder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PluginSocket {
    /// File name, `kubevirt-kvm.sock`; `kubelet.sock` is the kubelet's own.
    pub name: String,
    /// When it was made, Unix time in microseconds; `None` when it was gone before that could be asked.
    pub made_usec: Option<i64>,
}

/// The folder below the host's root.
pub fn device_plugin_folder(args: &KubeletArgs) -> String {
    format!("{}/device-plugins", args.root_dir.as_deref().unwrap_or(KUBELET_ROOT))
}

/// The sockets, by name; `None` when there is no such folder.
///
/// # Errors
/// Every [`ReadError`] but `NotFound`.
pub fn read_device_plugins(root: &HostRoot, args: &KubeletArgs) -> Result<Option<Vec<PluginSocket>>, ReadError> {
    let folder = device_plugin_folder(args);
    let names = match root.list(&folder) {
        Ok(names) => names,
        Err(error) if error.is_not_found() => return Ok(None),
        Err(error) => return Err(error),
    };
    let names = names.into_iter().filter_map(|name| name.into_string().ok()).filter(|name| name.ends_with(".sock"));
    let socket = |name: String| {
        let stat = root.stat(format!("{folder}/{name}")).ok();
        let made_usec =
            stat.map(|stat| stat.st_mtime * 1_000_000 + i64::try_from(stat.st_mtime_nsec / 1_000).unwrap_or(0));
        PluginSocket { name, made_usec }
    };
    Ok(Some(names.map(socket).collect()))
}
