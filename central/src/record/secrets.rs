//! What looks like a secret is left out of every text that leaves central in a case.
//!
//! Most secrets cannot be there at all: of Kubernetes' objects central keeps what `kulprit_cluster` reads, which is no environment, no
//! cloud-init data, no Secret, and annotations only to ask for a few of KubeVirt's. What is left are texts: log lines,
//! messages of conditions and events, paths of disks. Left out of them: private keys, web tokens (JWT), `Authorization`
//! headers, user and password in URLs, signatures of signed ones, values of names that sound secret, cloud-init data, tokens of known
//! makers, and long runs of base64. Names of objects and hexadecimal digests stay: verdicts join by them.

use std::{borrow::Cow, sync::LazyLock};

use regex::{Captures, Regex};
use serde_json::Value;

/// What stands where a secret stood.
pub const LEFT_OUT: &str = "<left-out>";

/// Base64 shorter than this is no key.
const MIN_BASE64: usize = 40;

/// Names whose values are secret.
const SECRET_NAME: &str = r"[a-z0-9_.-]*(?:passw(?:or)?d|passphrase|pwd|secret|token|api[_-]?key|access[_-]?key|private[_-]?key|auth[_-]?key|credentials?|user[_-]?data|network[_-]?data|cookie)[a-z0-9_.-]*";

struct Patterns {
    /// What they match is left out, but for their groups at its begin and end.
    rules: Vec<Regex>,
    base64: Regex,
    secret_name: Regex,
}

static PATTERNS: LazyLock<Patterns> = LazyLock::new(|| {
    let regex = |pattern: &str| Regex::new(pattern).expect("a test compiles all of them");
    let name = SECRET_NAME;
    Patterns {
        rules: vec![
            regex(r"(?s)-----BEGIN [A-Z0-9 ]*PRIVATE KEY-----.*?(?:-----END [A-Z0-9 ]*PRIVATE KEY-----|$)"),
            regex(r"(?s)#cloud-config\b.*"),
            regex(r"\beyJ[A-Za-z0-9_-]{5,}\.[A-Za-z0-9_-]{5,}(?:\.[A-Za-z0-9_-]*)?"),
            regex(
                r#"(?i)\b((?:proxy-)?authorization\\*["']?\s*[:=]\s*\\*["']?)(?:(?:bearer|basic|token|negotiate|digest)\s+)?[^\s"',;\\]+"#,
            ),
            regex(r"(?i)\b(bearer\s+)[a-z0-9._~+/=-]{8,}"),
            regex(r#"(://)[^/\s:@"']*:[^/\s@"']+(@)"#),
            // Whoever has a signed URL has what it is of. Go writes `&` into JSON as `\u0026`.
            regex(r#"(?i)((?:[?&;]|\\u0026)(?:x-(?:amz|goog)-)?sig(?:nature)?=)[^&\s"'<>\\;]+"#),
            regex(&format!(r#"(?i)\b({name}(?:\\*["'])?\s*[:=]\s*)(?:\\*"[^"]*"?|\\*'[^']*'?|[^\s,;&}})\]"']+)"#)),
            regex(&format!(r"(?i)(--{name}\s+)[^\s-]\S*")),
            regex(r"\bAKIA[0-9A-Z]{16}\b"),
            regex(r"\b(?:gh[pousr]_[A-Za-z0-9]{20,}|github_pat_[A-Za-z0-9_]{20,}|xox[abprs]-[A-Za-z0-9-]{10,})"),
        ],
        base64: regex(&format!(r"[A-Za-z0-9+/_-]{{{MIN_BASE64},}}={{0,2}}|\bAQ[A-Za-z0-9+/]{{20,}}={{1,2}}")),
        secret_name: regex(&format!("(?i)^{name}$")),
    }
});

/// Cleans every text in a value, and says how many were.
pub fn leave_out(value: &mut Value) -> usize {
    match value {
        Value::String(text) => {
            let cleaned = match clean(text) {
                Cow::Borrowed(_) => return 0,
                Cow::Owned(cleaned) => cleaned,
            };
            *text = cleaned;
            1
        }
        Value::Array(items) => items.iter_mut().map(leave_out).sum(),
        Value::Object(fields) => fields
            .iter_mut()
            .map(|(name, value)| match value {
                Value::String(text) if PATTERNS.secret_name.is_match(name) && text != LEFT_OUT => {
                    LEFT_OUT.clone_into(text);
                    1
                }
                other => leave_out(other),
            })
            .sum(),
        Value::Null | Value::Bool(_) | Value::Number(_) => 0,
    }
}

/// The text without what looks like a secret; borrowed if nothing does.
#[must_use]
pub fn clean(text: &str) -> Cow<'_, str> {
    let mut cleaned = Cow::Borrowed(text);
    let replace = |found: &Captures<'_>| {
        let group = |n: usize| found.get(n).map_or("", |kept| kept.as_str());
        format!("{}{LEFT_OUT}{}", group(1), group(2))
    };
    for rule in &PATTERNS.rules {
        if let Cow::Owned(shorter) = rule.replace_all(&cleaned, replace) {
            cleaned = Cow::Owned(shorter);
        }
    }
    let of_run = |found: &Captures<'_>| if is_random(&found[0]) { LEFT_OUT.to_owned() } else { found[0].to_owned() };
    if let Cow::Owned(shorter) = PATTERNS.base64.replace_all(&cleaned, of_run) {
        cleaned = Cow::Owned(shorter);
    }
    // What was left out before and matches again is no news.
    if cleaned == text { Cow::Borrowed(text) } else { cleaned }
}

/// Whether a run of letters is what base64 looks like: upper and lower case and digits, and not the separators of paths and names.
fn is_random(run: &str) -> bool {
    let has = |is: fn(&u8) -> bool| run.as_bytes().iter().any(is);
    let n_separators = run.bytes().filter(|byte| matches!(byte, b'/' | b'-' | b'_')).count();
    has(u8::is_ascii_uppercase)
        && has(u8::is_ascii_lowercase)
        && has(u8::is_ascii_digit)
        && n_separators * 16 <= run.len()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// Each with the part that must not be left.
    const SECRETS: &[(&str, &str)] = &[
        ("Authorization: Bearer abc.def-123", "abc.def"),
        (r#"headers {"authorization":"Basic aHVudGVyMjpodW50ZXIy"}"#, "aHVudGVy"),
        ("used bearer 0123456789abcdef for it", "0123456789"),
        ("GET https://admin:hunter2@registry.example/v2/ failed", "hunter2"),
        ("password=hunter2 was wrong", "hunter2"),
        ("DB_PASSWORD: 'hunter2 with space'", "hunter2"),
        (r#"{"clientSecret":"hunter2","x":1}"#, "hunter2"),
        (r#"body {\"token\":\"hunter2\"}"#, "hunter2"),
        ("mount -o username=a,passwd=hunter2,vers=3", "hunter2"),
        ("iscsiadm --password hunter2 --login", "hunter2"),
        ("node.session.auth.password = hunter2", "hunter2"),
        ("userData: I2Nsb3VkLWNvbmZpZw", "I2Nsb3"),
        ("guest: #cloud-config users: [hunter2]", "hunter2"),
        ("eyJhbGciOiJSUzI1NiJ9.eyJpc3MiOiJrIn0.c2lnbmF0dXJl", "eyJpc3"),
        ("-----BEGIN RSA PRIVATE KEY----- MIIEow x -----END RSA PRIVATE KEY-----", "MIIEow"),
        ("-----BEGIN PRIVATE KEY----- cut MIIEow", "MIIEow"),
        ("rbd:pool/img:id=admin:key=AQBnq0ZbAAAAABAAq8Xo1kQn4aPz4A==:x", "AQBnq0"),
        ("AKIAIOSFODNN7EXAMPLE", "AKIA"),
        ("ghp_abcdefghijklmnopqrstuvwxyz0123456789", "ghp_"),
        ("kubeadm join --token abcdef.0123456789abcdef", "0123456789abcdef"),
        ("GET https://a.blob.core.windows.net/c/d.vhd?sv=2024-11-04&sr=b&sig=aB3%2BxY9%3D failed", "aB3"),
        (
            r#"{"msg":"GET https://s3.example/b/k?X-Amz-Date=1\u0026X-Amz-Signature=0123456789abcdef gone"}"#,
            "0123456789abcdef",
        ),
        ("https://storage.example/b/k?X-Goog-Signature=00ff00ff&x=1", "00ff00ff"),
        ("<source query='a=1&amp;sig=Zm9v'/>", "Zm9v"),
        ("data dGhpcyBpcyBhIHNlY3JldCB0aGF0IGlzIGxvbmcgZW5vdWdoIDEyMw== end", "dGhpcyBp"),
    ];

    #[test]
    fn what_looks_like_a_secret_is_left_out() {
        for (text, secret) in SECRETS {
            let cleaned = clean(text);
            assert!(!cleaned.contains(secret) && cleaned.contains(LEFT_OUT), "{text}\n{cleaned}");
            assert_eq!(clean(&cleaned), cleaned, "once is enough");
        }
        assert_eq!(clean("https://a:b@host/x"), "https://<left-out>@host/x");
        assert_eq!(clean("password=hunter2, then"), "password=<left-out>, then");
    }

    #[test]
    fn what_verdicts_are_made_from_stays() {
        for text in [
            "nfs: server 10.0.0.5 not responding, still trying",
            "MountVolume.SetUp failed for volume \"x\" : secret \"db-0-init\" not found",
            "/var/lib/kubelet/pods/0b2c0b2c-0000-4000-8000-000000000001/volumes/kubernetes.io~csi/pvc-5f/mount",
            "registry.example/os/fedora@sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef",
            "/dev/disk/by-id/scsi-SATA_SAMSUNG_MZ7LN256HCHP_S20HNXAG123456-part1",
            "virt-launcher-db-0-x7k2p",
            "virError(Code=9, Domain=31, Message='operation failed: guest CPU doesn't match specification')",
            "qemu+ssh://root@n2/system",
            "sd 2:0:0:1: [sdb] tag#14 FAILED Result: hostbyte=DID_TRANSPORT_DISRUPTED",
            "container 4f5a1c6e5a2f4b7d8e9f0a1b2c3d4e5f4f5a1c6e5a2f4b7d8e9f0a1b2c3d4e5f died",
            "NoSuitableNodesForHostModelMigration: Migration cannot proceed since no node is suitable",
            "at 2026-03-01T10:15:00.123456Z",
            "ended by sig=11, as si_signo says",
        ] {
            assert_eq!(clean(text), text);
        }
    }

    #[test]
    fn every_text_of_a_value_is_cleaned_and_counted() {
        let mut value = json!({"a": ["password=x1", {"b": "fine"}], "token": "y2", "n": 3, "Token": null});
        assert_eq!(leave_out(&mut value), 2);
        assert_eq!(
            value,
            json!({"a": ["password=<left-out>", {"b": "fine"}], "token": LEFT_OUT, "n": 3, "Token": null})
        );
        assert_eq!(leave_out(&mut value), 0);
    }
}
