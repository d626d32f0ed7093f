//! What nodes share, by the name that evidence gives it: a server, the registry of an image, a kind of backend.

use kulprit_model::{
    Attributes,
    attribute::{BACKEND, IMAGE, SERVER},
};

use crate::score::{ScoreLine, ScoreSheet};

/// What the strongest evidence of a sheet that names anything names.
pub(crate) fn thing_of(sheet: &ScoreSheet) -> Option<String> {
    let mut lines: Vec<&ScoreLine> = sheet.lines.iter().filter(|line| line.decibans > 0.0).collect();
    lines.sort_by(|a, b| b.decibans.total_cmp(&a.decibans));
    lines.into_iter().find_map(|line| thing_in(&line.attributes))
}

/// What a finding names.
pub(crate) fn thing_in(attributes: &Attributes) -> Option<String> {
    let registry = || attributes.get(IMAGE).map(registry_of);
    server_in(attributes).or_else(registry).or_else(|| attributes.get(BACKEND)).map(ToOwned::to_owned)
}

/// A text names a registry without the port on which a look tries it.
fn server_in(attributes: &Attributes) -> Option<&str> {
    attributes.get(SERVER).map(|server| server.strip_suffix(":443").unwrap_or(server))
}

/// Whether what two nodes show is of two things: of what both name, nothing is the same.
pub(crate) fn are_two_things(here: &Attributes, there: &Attributes) -> bool {
    let image = |of: &Attributes| of.get(IMAGE).map(|image| registry_of(image).to_owned());
    let server = |of: &Attributes| server_in(of).map(ToOwned::to_owned);
    let pairs = [(server(here), server(there)), (image(here), image(there))];
    let mut compared = pairs.into_iter().filter_map(|(here, there)| Some(here? == there?)).peekable();
    compared.peek().is_some() && !compared.any(|is_same| is_same)
}

/// The host part of an image's name; images without one come from Docker Hub.
fn registry_of(image: &str) -> &str {
    match image.split_once('/') {
        Some((host, _)) if host.contains(['.', ':']) || host == "localhost" => host,
        Some(_) | None => "docker.io",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_things_share_nothing_that_both_name() {
        let of = |pairs: &[(&str, &str)]| pairs.iter().copied().collect::<Attributes>();
        for (here, there, want) in [
            (&[("server", "quay.io:443")][..], &[("server", "quay.io")][..], false),
            (&[("server", "quay.io:443")], &[("server", "docker.io:443")], true),
            (
                &[("server", "auth.example"), ("image", "a.example/x")],
                &[("server", "b"), ("image", "a.example/y")],
                false,
            ),
            (
                &[("server", "mirror"), ("image", "a.example/x")],
                &[("server", "mirror"), ("image", "b.example/y")],
                false,
            ),
            (&[("server", "quay.io")], &[("image", "docker.io/x")], false),
            (&[], &[("server", "quay.io")], false),
        ] {
            assert_eq!(are_two_things(&of(here), &of(there)), want, "{here:?} {there:?}");
        }
    }

    #[test]
    fn an_image_is_known_by_its_registry() {
        for (image, want) in [
            ("registry.example:5000/a/b:c", "registry.example:5000"),
            ("localhost/a", "localhost"),
            ("library/busybox", "docker.io"),
            ("busybox", "docker.io"),
            ("", "docker.io"),
        ] {
            assert_eq!(registry_of(image), want, "{image}");
        }
    }
}
