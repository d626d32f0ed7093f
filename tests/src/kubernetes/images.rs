//! Container images without a registry and without a builder: tar files that `ctr images import` takes.
//!
//! Two images: the sandbox's (`pause`) and the launcher's, an empty root for the node's `/usr` and `/etc`. In the format of `docker save`,
//! one file for both. Pods name them with `imagePullPolicy: Never`.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use serde_json::{Value, json};

use crate::shell;

/// The image of a pod's sandbox, and of a container that does nothing.
pub const PAUSE: &str = "localhost/pause:lab";
/// The image of a launcher's container: the folders of a root.
pub(crate) const LAUNCHER: &str = "localhost/virt-launcher:lab";

/// Folders of a launcher's root; the rest comes from the node's `/usr` and `/etc`.
const FOLDERS: [&str; 12] = [
    "dev",
    "etc",
    "proc",
    "root",
    "run",
    "sys",
    "tmp",
    "usr",
    "var/cache/libvirt",
    "var/lib/libvirt",
    "var/log/libvirt",
    "var/tmp",
];

/// Makes the root of a launcher's container: empty, with the links of a merged `/usr`.
pub(crate) fn make_root(root: &Path) -> Result<()> {
    for folder in FOLDERS {
        fs::create_dir_all(root.join(folder))?;
    }
    symlink("/run", root.join("var/run"))?;
    for name in ["bin", "lib", "lib64", "sbin"] {
        symlink(format!("usr/{name}"), root.join(name))?;
    }
    Ok(())
}

/// Writes the archive with both images, if it is not there, and returns its path.
pub(super) fn archive(folder: &Path) -> Result<PathBuf> {
    let archive = folder.join("images.tar");
    if archive.exists() {
        return Ok(archive);
    }
    let parts = folder.join("images");
    let (pause, launcher) = (parts.join("pause"), parts.join("launcher"));
    fs::create_dir_all(&pause)?;
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("kubernetes/pause.c");
    let program = pause.join("pause");
    shell::run(&["gcc", "-static", "-Os", "-s", "-o", &program.to_string_lossy(), &source.to_string_lossy()])?;
    make_root(&launcher)?;

    let images = [layer(&parts, "pause", PAUSE, &["/pause"])?, layer(&parts, "launcher", LAUNCHER, &[])?];
    fs::write(parts.join("manifest.json"), Value::from(images.to_vec()).to_string())?;
    let files = ["manifest.json", "pause.json", "pause.tar", "launcher.json", "launcher.tar"];
    let pack = ["tar", "-C", &parts.to_string_lossy(), "-cf", &archive.to_string_lossy()];
    shell::run(&[&pack[..], &files[..]].concat())?;
    Ok(archive)
}

/// Packs the folder `name` as an image's only layer, writes the image's configuration, and returns its line of the manifest.
fn layer(parts: &Path, name: &str, tag: &str, command: &[&str]) -> Result<Value> {
    let at = |file: String| parts.join(file).to_string_lossy().into_owned();
    let (tar, config) = (format!("{name}.tar"), format!("{name}.json"));
    shell::run(&["tar", "-C", &at(name.to_owned()), "-cf", &at(tar.clone()), "."])?;
    let sum = shell::run(&["sha256sum", &at(tar.clone())])?;
    let sum = sum.split(' ').next().context("a sum and a name")?;
    let text = json!({
        "architecture": "amd64",
        "os": "linux",
        "config": {"Cmd": command},
        "rootfs": {"type": "layers", "diff_ids": [format!("sha256:{sum}")]},
    });
    fs::write(at(config.clone()), text.to_string())?;
    Ok(json!({"Config": config, "RepoTags": [tag], "Layers": [tar]}))
}
