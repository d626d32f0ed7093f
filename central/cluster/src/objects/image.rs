//! References of images, written out: registries and the tag that go without saying are added.
//!
//! Source: the reference grammar of `distribution/reference`.

/// A reference in full: two references of one image are the same then.
pub(crate) fn whole_image(image: &str) -> String {
    let image = image.split_once("://").map_or(image, |(_, rest)| rest);
    let (name, digest) = image.split_once('@').map_or((image, None), |(name, digest)| (name, Some(digest)));
    let first = name.split('/').next().unwrap_or_default();
    let has_registry = name.contains('/') && (first.contains(['.', ':']) || first == "localhost");
    let mut whole = match (has_registry, name.contains('/')) {
        (true, _) => name.to_owned(),
        (false, true) => format!("docker.io/{name}"),
        (false, false) => format!("docker.io/library/{name}"),
    };
    let has_tag = whole.rsplit('/').next().is_some_and(|last| last.contains(':'));
    match digest {
        // The digest decides; a tag beside it says nothing.
        Some(digest) => {
            if has_tag && let Some(colon) = whole.rfind(':') {
                whole.truncate(colon);
            }
            format!("{whole}@{digest}")
        }
        None if has_tag => whole,
        None => format!("{whole}:latest"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn references_of_one_image_are_the_same() {
        for (a, b, want) in [
            ("nginx", "docker.io/library/nginx:latest", true),
            ("quay.io/lab/a:1", "quay.io/lab/a:1", true),
            ("quay.io/lab/a:1", "quay.io/lab/a:2", false),
            ("quay.io/lab/a:1@sha256:ab", "quay.io/lab/a@sha256:ab", true),
            ("reg:5000/a", "reg:5000/a:latest", true),
            ("containerd://x", "x", true),
        ] {
            assert_eq!(whole_image(a) == whole_image(b), want, "{a} {b}");
        }
    }
}
