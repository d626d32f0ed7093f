//! What installs Kulprit in the lab's cluster: helm, and images of the programs under test.
//!
//! The images are those of deploy/images, made by buildah from the Dockerfiles themselves. Two things differ: the stage that compiles is
//! replaced by the programs that Cargo built for the tests, without their symbols, with this machine's libraries, and no registry is
//! between buildah and containerd.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

use super::Cluster;
use crate::lab::built_binary;
use crate::node::Node;
use crate::shell;

/// Each image, and the programs in it.
const IMAGES: [(&str, &[&str]); 2] =
    [("agent", &["kulprit-agent", "kulprit-agent-libvirt", "kulprit"]), ("central", &["kulprit-central"])];

/// The tag of the images.
pub const TAG: &str = "lab";

/// The folder of the chart.
#[must_use]
pub fn chart() -> PathBuf {
    workspace().join("deploy/chart")
}

impl Cluster {
    /// Builds `localhost/kulprit-agent` and `localhost/kulprit-central`, with [`TAG`], and imports both on these nodes.
    ///
    /// # Errors
    /// If a program is not built, or buildah or containerd fails.
    pub fn import_images(&self, nodes: &[Node]) -> Result<()> {
        let archives: Vec<PathBuf> = std::thread::scope(|scope| {
            let builds = IMAGES.map(|(name, programs)| scope.spawn(move || build(&self.folder, name, programs)));
            builds.into_iter().map(|build| build.join().expect("a build does not panic")).collect::<Result<_>>()
        })?;
        for node in nodes {
            for archive in &archives {
                let name = archive.file_name().context("an archive has a name")?;
                let inside = Path::new("/var/lib").join(name);
                fs::copy(archive, node.root().join("var/lib").join(name))?;
                let inside = inside.to_string_lossy();
                node.run(&["ctr", "--namespace", "k8s.io", "images", "import", &inside])?;
                node.run(&["rm", &inside])?;
            }
        }
        Ok(())
    }

    /// Runs `helm` as an administrator and returns what it prints.
    ///
    /// # Errors
    /// If it fails.
    pub fn helm(&self, args: &[&str]) -> Result<String> {
        let mut command = self.lab.brief_command(helm_program(&self.binaries)?);
        command.arg("--kubeconfig").arg(self.admin_config()).env("HOME", &self.folder).args(args);
        shell::output(&mut command)
    }
}

/// What the chart renders with these values, each `key=value`, as it would be installed into the namespace `kulprit`.
///
/// # Errors
/// If helm is not built, or refuses a value: what it said.
pub fn render(values: &[&str]) -> Result<String> {
    let (helm, chart) = (helm_program(&super::binaries()?)?, chart());
    let (helm, chart) = (helm.to_string_lossy(), chart.to_string_lossy());
    let mut line = vec![&*helm, "template", "kulprit", &*chart, "--namespace", "kulprit"];
    line.extend(values.iter().flat_map(|value| ["--set", *value]));
    shell::run(&line)
}

/// The program carries its version in its name.
fn helm_program(folder: &Path) -> Result<PathBuf> {
    let is_helm = |path: &PathBuf| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("helm-v"));
    let programs = fs::read_dir(folder)?.flatten().map(|entry| entry.path());
    programs.into_iter().find(is_helm).context("helm is not built: run scripts/kubernetes.sh")
}

/// Builds an image and returns its archive.
fn build(folder: &Path, name: &str, programs: &[&str]) -> Result<PathBuf> {
    let at = |part: &str| folder.join(format!("{name}-{part}")).to_string_lossy().into_owned();
    let stripped = PathBuf::from(at("programs"));
    fs::create_dir_all(&stripped)?;
    let mut lay_out = vec![workspace().join("deploy/images/root.sh").to_string_lossy().into_owned(), at("root/image")];
    for program in programs {
        let built = built_binary(program).with_context(|| format!("`{program}` is not built"))?;
        let copy = stripped.join(program).to_string_lossy().into_owned();
        shell::run(&["strip", "-o", &copy, &built.to_string_lossy()])?;
        lay_out.push(copy);
    }
    shell::run(&lay_out.iter().map(String::as_str).collect::<Vec<_>>())?;
    let file = workspace().join("deploy/images").join(name).join("Dockerfile").to_string_lossy().into_owned();
    let (context, image) = (format!("root={}", at("root")), format!("localhost/kulprit-{name}:{TAG}"));
    // An empty folder: the stage that would read the sources is replaced.
    let (sources, store, run, archive) = (at("sources"), at("store"), at("run"), at("image.tar"));
    fs::create_dir_all(&sources)?;
    let buildah = ["buildah", "--storage-driver", "vfs", "--root", &store, "--runroot", &run];
    let arguments = ["--isolation", "chroot", "--build-context", &context, "--file", &file, "--tag", &image, &sources];
    shell::run(&[&buildah[..], &["build"], &arguments].concat())?;
    shell::run(&[&buildah[..], &["push", &image, &format!("docker-archive:{archive}:{image}")]].concat())?;
    Ok(archive.into())
}

fn workspace() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}
