//! Where CRI-O pulls images from: the tables of containers' `registries.conf` that name a mirror.
//!
//! OpenShift writes its mirrors there (`ImageDigestMirrorSet`). Only what is needed of TOML is read: tables by their heads,
//! one key a line. Source: `containers-registries.conf(5)`, `containers-registries.conf.d(5)`.

use super::registry::{RegistryHost, parse_registry_url};
use crate::{HostRoot, ReadError};

/// One `[[registry]]`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ConfiguredRegistry {
    /// The images it is for: `quay.io`, `quay.io/kubevirt`, `*.example.com`. Empty where `location` says it.
    pub prefix: String,
    /// Where they really are. Empty where that is their own registry.
    pub location: String,
    /// Whether nothing may be pulled from `location`: mirrors alone are asked.
    pub is_blocked: bool,
    /// Whether mirrors are asked only for images named by digest.
    pub is_by_digest_only: bool,
    /// `[[registry.mirror]]`, in the order in which they are asked.
    pub mirrors: Vec<ConfiguredMirror>,
}

/// One `[[registry.mirror]]`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ConfiguredMirror {
    /// Host, port and path.
    pub location: String,
    /// `pull-from-mirror`: `all`, `digest-only`, `tag-only`. Empty: all.
    pub pull_from_mirror: String,
}

/// Parses a `registries.conf`: its registries in order. Lines that are not understood are left out.
pub fn parse_registries_conf(text: &str) -> Vec<ConfiguredRegistry> {
    let mut registries: Vec<ConfiguredRegistry> = Vec::new();
    let mut table = "";
    for line in text.lines().map(str::trim) {
        if line.starts_with('[') {
            table = line.split('#').next().unwrap_or_default().trim_end();
            match (table, registries.last_mut()) {
                ("[[registry]]", _) => registries.push(ConfiguredRegistry::default()),
                ("[[registry.mirror]]", Some(registry)) => registry.mirrors.push(ConfiguredMirror::default()),
                _ => {}
            }
            continue;
        }
        let (Some((key, value)), Some(registry)) = (line.split_once('='), registries.last_mut()) else { continue };
        let value = scalar(value);
        match (table, key.trim(), registry.mirrors.last_mut()) {
            ("[[registry]]", "prefix", _) => value.clone_into(&mut registry.prefix),
            ("[[registry]]", "location", _) => value.clone_into(&mut registry.location),
            ("[[registry]]", "blocked", _) => registry.is_blocked = value == "true",
            ("[[registry]]", "mirror-by-digest-only", _) => registry.is_by_digest_only = value == "true",
            ("[[registry.mirror]]", "location", Some(mirror)) => value.clone_into(&mut mirror.location),
            ("[[registry.mirror]]", "pull-from-mirror", Some(mirror)) => value.clone_into(&mut mirror.pull_from_mirror),
            _ => {}
        }
    }
    registries
}

/// A value without its quotes and the comment behind it.
fn scalar(value: &str) -> &str {
    let value = value.trim();
    match value.chars().next().filter(|first| matches!(first, '"' | '\'')) {
        Some(quote) => value[1..].split(quote).next().unwrap_or_default(),
        None => value.split('#').next().unwrap_or_default().trim_end(),
    }
}

impl ConfiguredRegistry {
    fn prefix(&self) -> &str {
        if self.prefix.is_empty() { &self.location } else { &self.prefix }
    }

    /// Whether `image` is one of its.
    fn is_for(&self, image: &str) -> bool {
        let rest = match self.prefix().strip_prefix('*') {
            Some(domain) => image.split_once(domain).and_then(|(host, rest)| (!host.contains('/')).then_some(rest)),
            None => image.strip_prefix(self.prefix()),
        };
        !self.prefix().is_empty() && rest.is_some_and(|rest| rest.is_empty() || rest.starts_with(['/', ':', '@']))
    }

    /// The servers that are asked for `image`, whose own registry is `origin`.
    fn servers(&self, image: &str, origin: &RegistryHost) -> Vec<RegistryHost> {
        let is_digest = image.contains('@');
        let is_asked = |mirror: &&ConfiguredMirror| match mirror.pull_from_mirror.as_str() {
            "digest-only" => is_digest,
            "tag-only" => !is_digest,
            _ => is_digest || !self.is_by_digest_only,
        };
        let mirrors = self.mirrors.iter().filter(is_asked).filter_map(|mirror| parse_registry_url(&mirror.location));
        // Docker Hub's name is not its server's.
        let location = parse_registry_url(&self.location).filter(|location| location.host != "docker.io");
        let location = location.unwrap_or_else(|| origin.clone());
        mirrors.chain((!self.is_blocked).then_some(location)).collect()
    }
}

/// The servers that CRI-O asks for `image`: mirrors first, then the registry. A name without a registry has no mirror here.
///
/// # Errors
/// When a file is there and cannot be read.
pub(super) fn read_servers(
    root: &HostRoot,
    image: &str,
    origin: &RegistryHost,
) -> Result<Vec<RegistryHost>, ReadError> {
    let drop_ins = root.drop_ins("etc/containers/registries.conf.d", &[".conf"])?;
    let mut registries = Vec::new();
    for file in std::iter::once("etc/containers/registries.conf".to_owned()).chain(drop_ins) {
        registries.extend(parse_registries_conf(&root.read_text_if_any(file)?.unwrap_or_default()));
    }
    // The longest prefix counts, and of two that are alike the later file's, which is the last of `max_by_key`.
    let registry =
        registries.iter().filter(|registry| registry.is_for(image)).max_by_key(|registry| registry.prefix().len());
    Ok(registry.map_or_else(|| vec![origin.clone()], |registry| registry.servers(image, origin)))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// As the machine-config operator writes an `ImageDigestMirrorSet`.
    const OPENSHIFT: &str = r#"unqualified-search-registries = ["registry.access.redhat.com", "docker.io"]
short-name-mode = ""

[[registry]]
  prefix = ""
  location = "quay.io/openshift"
  blocked = true # NeverContactSource

  [[registry.mirror]]
    location = "mirror.example:5000/ocp"
    pull-from-mirror = "digest-only"
  [[registry.mirror]]
    location = "second.example/ocp"

[[registry]]
  prefix = "*.wild.example"
  location = ""
  mirror-by-digest-only = true
  [[registry.mirror]]
    location = 'mirror.example:5000/wild'
"#;

    /// The hosts that are asked for an image of this registry, with these files.
    #[track_caller]
    fn check(files: &[(&str, &str)], image: &str, want: &[&str]) {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("etc/containers/registries.conf.d");
        std::fs::create_dir_all(&folder).unwrap();
        for (name, text) in files {
            std::fs::write(folder.join(name), text).unwrap();
        }
        let origin = super::super::parse_image_registry(image).unwrap();
        let servers = read_servers(&HostRoot::new(dir.path()), image, &origin).unwrap();
        assert_eq!(servers.iter().map(|server| server.host.as_str()).collect::<Vec<_>>(), want, "{image}");
    }

    #[test]
    fn mirrors_are_asked_for_the_images_they_are_for() {
        let files = [("99-ocp.conf", OPENSHIFT)];
        check(&files, "quay.io/openshift/a@sha256:00", &["mirror.example", "second.example"]);
        check(&files, "quay.io/openshift/a:v1", &["second.example"]);
        check(&files, "quay.io/openshift-release-dev/a@sha256:00", &["quay.io"]);
        check(&files, "a.wild.example/b@sha256:00", &["mirror.example", "a.wild.example"]);
        check(&files, "a.wild.example/b:v1", &["a.wild.example"]);
        check(&[], "quay.io/openshift/a:v1", &["quay.io"]);
        let hub = [("hub.conf", "[[registry]]\nlocation = \"docker.io\"\n")];
        check(&hub, "docker.io/library/busybox:1", &["registry-1.docker.io"]);
    }

    #[test]
    fn the_longest_prefix_counts_and_of_the_same_the_later_file() {
        let table = |prefix: &str, mirror: &str| {
            format!("[[registry]]\nlocation = \"{prefix}\"\n[[registry.mirror]]\nlocation = \"{mirror}\"\n")
        };
        let short = table("quay.io", "short.example") + &table("quay.io/a", "early.example");
        let files =
            [("10.conf", short.as_str()), ("20.conf", &table("quay.io/a", "late.example")), ("30.toml", OPENSHIFT)];
        check(&files, "quay.io/a/b:1", &["late.example", "quay.io"]);
        check(&files, "quay.io/c:1", &["short.example", "quay.io"]);
    }

    proptest! {
        #[test]
        fn nothing_makes_a_parser_panic(text in "(\\[\\[registry\\]\\]\n)?(\\[\\[registry.mirror\\]\\]\n)?(location|prefix)? ?=?\\PC{0,60}") {
            for registry in parse_registries_conf(&text) {
                let _ = registry.is_for(&text);
            }
        }
    }
}
