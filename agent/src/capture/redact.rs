//! Secrets are left out of what a capture shows.
//!
//! A domain's XML can hold the password of a display (`passwd='…'`, kept in libvirt's own status file), a QEMU argument
//! (`-object secret,…,data=…`) and metadata of an image with a token; logs can hold a URL with a password in it. What names a
//! secret goes with the whole value: a value too much is left out rather than one too few.
//! Source: libvirt `docs/formatdomain.rst` (graphics, qemu:commandline), QEMU `docs/system/secrets.rst`.

/// Words that make the value after them a secret, in lower case.
const NAMES: [&str; 9] =
    ["passwd", "password", "passphrase", "secret", "token", "authorization", "keyring", "credential", "private_key"];
/// What is shown instead.
const LEFT_OUT: &str = "(left out)";

/// The text without values that may be secrets, line by line.
#[must_use]
pub fn redact(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut is_in_key = false;
    for line in text.split_inclusive('\n') {
        let (body, end) = line.strip_suffix('\n').map_or((line, ""), |body| (body, "\n"));
        // A key of several lines: certificates of a log, injected files of metadata.
        if body.contains("PRIVATE KEY-----") {
            is_in_key = body.contains("-----BEGIN");
            out.push_str(LEFT_OUT);
        } else if is_in_key {
            continue;
        } else {
            redact_line(body, &mut out);
        }
        out.push_str(end);
    }
    out
}

fn redact_line(line: &str, out: &mut String) {
    let lower = line.to_ascii_lowercase();
    let named = NAMES.iter().filter_map(|name| lower.find(name).map(|at| at + name.len())).min();
    let userinfo = password_of_url(line);
    match (named, userinfo) {
        (None, None) => out.push_str(line),
        (Some(at), _) if starts_value(&line[at..]) => {
            out.push_str(&line[..at]);
            out.push_str(LEFT_OUT);
        }
        (_, Some((from, to))) => {
            out.push_str(&line[..from]);
            out.push_str(LEFT_OUT);
            out.push_str(&line[to..]);
        }
        (Some(_), None) => out.push_str(line),
    }
}

/// Whether a value follows the name: `='…'`, `": "…"`, `,id=…,data=…`, `>…<`; not the end of a sentence.
fn starts_value(rest: &str) -> bool {
    let rest = rest.trim_start_matches(|char: char| char.is_ascii_alphanumeric() || matches!(char, '_' | '-'));
    rest.trim_start_matches(['\'', '"', ' ']).starts_with(['=', ':', ',', '>'])
}

/// Where the password of `scheme://user:password@host` stands.
fn password_of_url(line: &str) -> Option<(usize, usize)> {
    let start = line.find("://")? + 3;
    let rest = &line[start..];
    let end = rest.find(|char: char| char == '/' || char.is_whitespace()).unwrap_or(rest.len());
    let at = rest[..end].rfind('@')?;
    let colon = rest[..at].find(':')?;
    Some((start + colon + 1, start + at))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, want: &str) {
        assert_eq!(redact(text), want);
    }

    #[test]
    fn values_of_secrets_are_left_out_with_all_that_follows_them() {
        check("<graphics type='vnc' passwd='s3cret' port='5900'/>\n", "<graphics type='vnc' passwd(left out)\n");
        check("-object secret,id=sec0,data=c2VjcmV0\nx", "-object secret(left out)\nx");
        check("{\"level\":\"info\",\"token\": \"abc\"}", "{\"level\":\"info\",\"token(left out)");
        check("Authorization: Bearer abc", "Authorization(left out)");
        check("<password>abc</password>", "<password(left out)");
        check("rbd_secret_uuid = 'x'", "rbd_secret(left out)");
    }

    #[test]
    fn a_word_in_a_sentence_is_no_secret() {
        check("failed to mount: no such secret found", "failed to mount: no such secret found");
        check("<domstatus state='running' pid='7'>", "<domstatus state='running' pid='7'>");
    }

    #[test]
    fn the_password_of_a_url_is_left_out() {
        check("GET https://me:pw@registry/v2/ now", "GET https://me:(left out)@registry/v2/ now");
        check("GET https://registry:5000/v2/@x", "GET https://registry:5000/v2/@x");
    }

    #[test]
    fn keys_of_several_lines_are_left_out_whole() {
        check("a\n-----BEGIN PRIVATE KEY-----\nMII\n-----END PRIVATE KEY-----\nb", "a\n(left out)\n(left out)\nb");
    }

    #[test]
    fn other_scripts_are_cut_where_a_char_begins() {
        check("пароль password='ключ'", "пароль password(left out)");
    }
}
