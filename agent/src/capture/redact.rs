//! Secrets are left out of what a capture shows.
//!
//! A domain's XML can hold the password of a display (`passwd='…'`, kept in libvirt's own status file), a QEMU argument
//! (`-object secret,…,data=…`) and metadata of an image with a token; logs can hold a URL with a password or a signature in it. What names a
//! secret goes with the whole rest of its line: a value too much is left out rather than one too few.
//! Source: libvirt `docs/formatdomain.rst` (graphics, qemu:commandline), QEMU `docs/system/secrets.rst`.

/// Words that make the value after them a secret, in lower case.
const NAMES: [&str; 24] = [
    "passwd",
    "password",
    "passphrase",
    "pwd",
    "secret",
    "token",
    "authorization",
    "cookie",
    "keyring",
    "credential",
    "private_key",
    "private-key",
    "api_key",
    "api-key",
    "apikey",
    "access_key",
    "access-key",
    "accesskey",
    "auth_key",
    "signature",
    "?sig",
    "&sig",
    "user_data",
    "userdata",
];
/// A token stands right behind it.
const BEARER: &str = "bearer ";
/// No word of a sentence is so long, and no token shorter.
const MIN_TOKEN: usize = 8;
/// What is shown instead.
const LEFT_OUT: &str = "(left out)";

/// The text without values that may be secrets, line by line.
#[must_use]
pub fn redact(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut is_in_key = false;
    for line in text.split_inclusive('\n') {
        let (body, end) = line.strip_suffix('\n').map_or((line, ""), |body| (body, "\n"));
        // A key of several lines: certificates of a log, injected files of metadata. Logs of JSON have all of it in one.
        if body.contains("PRIVATE KEY-----") {
            is_in_key = body.rfind("-----BEGIN") > body.rfind("-----END");
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
    let ends = |word: &'static str| lower.match_indices(word).map(|(at, word)| at + word.len());
    let named = NAMES.into_iter().flat_map(ends).filter(|at| starts_value(&line[*at..]));
    let tokens = ends(BEARER).filter(|at| starts_token(&line[*at..]));
    // A JSON Web Token: `{"` in base64, and a dot.
    let web_tokens = line.match_indices("eyJ").map(|(at, _)| at).filter(|at| {
        let word = line[*at..].split(|char: char| !is_of_token(char)).next().unwrap_or_default();
        word.contains('.') && !line[..*at].ends_with(is_of_token)
    });
    match named.chain(tokens).chain(web_tokens).min() {
        Some(at) => {
            push_without_passwords(&line[..at], out);
            out.push_str(LEFT_OUT);
        }
        None => push_without_passwords(line, out),
    }
}

/// Whether a value follows the name: `='…'`, `": "…"`, `,id=…,data=…`, `>…<`, `' value='…'` of an environment; not the end of a sentence.
fn starts_value(rest: &str) -> bool {
    let rest = rest.trim_start_matches(|char: char| char.is_ascii_alphanumeric() || matches!(char, '_' | '-'));
    let rest = rest.trim_start_matches(['\'', '"', ' ', '\\']);
    rest.strip_prefix("value").unwrap_or(rest).starts_with(['=', ':', ',', '>'])
}

fn starts_token(rest: &str) -> bool {
    let rest = rest.trim_start();
    rest.find(|char: char| !is_of_token(char)).unwrap_or(rest.len()) >= MIN_TOKEN
}

const fn is_of_token(char: char) -> bool {
    char.is_ascii_alphanumeric() || matches!(char, '-' | '.' | '_' | '~' | '+' | '/' | '=')
}

fn push_without_passwords(mut text: &str, out: &mut String) {
    while let Some((from, to)) = password_of_url(text) {
        out.push_str(&text[..from]);
        out.push_str(LEFT_OUT);
        text = &text[to..];
    }
    out.push_str(text);
}

/// Where the first password of a `scheme://user:password@host` stands.
fn password_of_url(text: &str) -> Option<(usize, usize)> {
    text.match_indices("://").find_map(|(at, separator)| {
        let start = at + separator.len();
        let rest = &text[start..];
        let end = rest.find(|char: char| char == '/' || char.is_whitespace()).unwrap_or(rest.len());
        let at = rest[..end].rfind('@')?;
        let colon = rest[..at].find(':')?;
        Some((start + colon + 1, start + at))
    })
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
        check("body {\\\"token\\\":\\\"abc\\\"}", "body {\\\"token(left out)");
        check("pwd=abc", "pwd(left out)");
        check("X-Api-Key: abc", "X-Api-Key(left out)");
        check("GET https://h/disk.img?sv=1&sig=aB%2B failed", "GET https://h/disk.img?sv=1&sig(left out)");
    }

    #[test]
    fn a_word_that_is_no_secret_hides_none_behind_it() {
        check("failed to refresh token for user, password=abc", "failed to refresh token for user, password(left out)");
        check("secret not found, using secret: abc", "secret not found, using secret(left out)");
        check("no secret in http://me:pw@h/ nor password", "no secret in http://me:(left out)@h/ nor password");
        check("<qemu:env name='API_TOKEN' value='abc'/>", "<qemu:env name='API_TOKEN(left out)");
    }

    #[test]
    fn a_token_is_left_out_whatever_stands_before_it() {
        check("used bearer abcdefgh for it", "used bearer (left out)");
        check("got eyJhbGciOi.eyJzdWIi.c2ln back", "got (left out)");
        check("the bearer is up, eyJ is none", "the bearer is up, eyJ is none");
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
        check(
            "http://h/a by http://me:pw@b/ or c://d:e@f",
            "http://h/a by http://me:(left out)@b/ or c://d:(left out)@f",
        );
    }

    #[test]
    fn keys_of_several_lines_are_left_out_whole() {
        check("a\n-----BEGIN PRIVATE KEY-----\nMII\n-----END PRIVATE KEY-----\nb", "a\n(left out)\n(left out)\nb");
        check("{\"k\":\"-----BEGIN PRIVATE KEY-----\\nMII\\n-----END PRIVATE KEY-----\"}\nb", "(left out)\nb");
    }

    #[test]
    fn other_scripts_are_cut_where_a_char_begins() {
        check("пароль password='ключ'", "пароль password(left out)");
    }
}
