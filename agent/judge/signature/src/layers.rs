//! Takes off what is around an error's text: JSON, logfmt and klog heads and fields, escapes; tells the level they name.
//!
//! What is left is one line `message: error`, in which the outer layers stand left of the inner ones, and the fields that name
//! things. Formats: KubeVirt's and CDI's JSON (go-kit, zap), logrus' logfmt (containerd, CRI-O, Longhorn), klog v2, libvirt's
//! `stamp: thread: error : function:line : text`.

/// What the line's own level says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Level {
    Unknown,
    Info,
    Warning,
    Error,
}

/// A line without its wrapping.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Bare {
    pub(crate) level: Level,
    /// Whether a field of its own held an error.
    pub(crate) has_error: bool,
    /// The text, outer layers first.
    pub(crate) text: String,
}

/// Texts are cut here, bytes: an error says what it has to say before.
const MAX_TEXT: usize = 4096;
/// What fields that hold no error hold.
const NO_ERROR: [&str; 5] = ["", "<nil>", "nil", "null", "{}"];

/// Fields that only JSON has: excerpts lose their first brace.
const JSON_FIELDS: [&str; 2] = ["\"msg\":\"", "\"reason\":\""];

/// Unwraps one line.
pub(crate) fn unwrap(line: &str) -> Bare {
    let line = line.trim();
    let line = &line[..line.floor_char_boundary(MAX_TEXT * 4)];
    let is_json = |field: &str| quoted_after(line, field).is_some();
    let bare = if (line.starts_with('{') && line.contains("\":")) || JSON_FIELDS.into_iter().any(is_json) {
        from_json(line)
    } else if let Some((level, rest)) = klog_head(line).or_else(|| klog_head(line.split_once("]: ")?.1)) {
        from_klog(level, rest)
    } else if line.contains("level=") && line.contains("msg=") {
        from_logfmt(line)
    } else if line.starts_with('"') {
        from_klog(Level::Unknown, line)
    } else {
        libvirt_level(line)
    };
    let mut text = unescape(&bare.text);
    text.truncate(text.floor_char_boundary(MAX_TEXT));
    Bare { text, ..bare }
}

fn joined(level: Level, message: Option<&str>, error: Option<&str>, line: &str) -> Bare {
    let error = error.filter(|error| !NO_ERROR.contains(error));
    let text = match (message, error) {
        (Some(message), Some(error)) if message.contains(error) => message.to_owned(),
        (Some(message), Some(error)) => format!("{message}: {error}"),
        (Some(text), None) | (None, Some(text)) => text.to_owned(),
        (None, None) => line.to_owned(),
    };
    Bare { level, has_error: error.is_some(), text }
}

fn level_of(word: &str) -> Level {
    let is = |names: &[&str]| names.iter().any(|name| word.eq_ignore_ascii_case(name));
    if is(&["info", "debug", "trace", "notice", "dbg"]) {
        Level::Info
    } else if is(&["warning", "warn"]) {
        Level::Warning
    } else if is(&["error", "fatal", "panic", "critical", "dpanic", "err"]) {
        Level::Error
    } else {
        Level::Unknown
    }
}

/// The raw, still escaped text that follows `head` up to a quote that is not escaped.
fn quoted_after<'a>(line: &'a str, head: &str) -> Option<&'a str> {
    let mut from = 0;
    loop {
        let at = from + line[from..].find(head)?;
        let start = at + head.len();
        let is_field = at == 0 || matches!(line.as_bytes()[at - 1], b' ' | b',' | b'{' | b'\t');
        if is_field {
            let bytes = line.as_bytes();
            let mut end = start;
            while end < bytes.len() && bytes[end] != b'"' {
                end += if bytes[end] == b'\\' { 2 } else { 1 };
            }
            return line.get(start..end.min(bytes.len()));
        }
        from = start;
    }
}

fn from_json(line: &str) -> Bare {
    let field = |name: &str| {
        quoted_after(line, &format!("\"{name}\":\"")).or_else(|| quoted_after(line, &format!("\"{name}\": \"")))
    };
    let level = field("level").or_else(|| field("severity")).map_or(Level::Unknown, level_of);
    let message = field("msg").or_else(|| field("message")).or_else(|| field("MESSAGE"));
    let error = field("reason").or_else(|| field("error")).or_else(|| field("err"));
    // The monitor prints QEMU's whole log at level info.
    let is_qemus = message.is_some_and(|message| message.contains("qemu-kvm: ") || message.contains("qemu-system"));
    let level = if is_qemus && level == Level::Info && !message.is_some_and(|text| text.contains(" -name guest=")) {
        Level::Unknown
    } else {
        level
    };
    let mut bare = joined(level, message, error, line);
    if let Some(inner) = message.filter(|message| message.starts_with('{') && error.is_none()) {
        bare.text = inner.to_owned();
    }
    bare
}

/// `E0909 16:47:11.124948 3240779 file.go:348] rest`; the rest also without the head, as journals give it.
fn klog_head(line: &str) -> Option<(Level, &str)> {
    let level = match line.as_bytes().first()? {
        b'I' => Level::Info,
        b'W' => Level::Warning,
        b'E' | b'F' => Level::Error,
        _ => return None,
    };
    let digits = line.get(1..5)?;
    if !digits.bytes().all(|byte| byte.is_ascii_digit()) || line.as_bytes().get(5) != Some(&b' ') {
        return None;
    }
    let (_, rest) = line.split_once("] ")?;
    Some((level, rest))
}

fn from_klog(level: Level, rest: &str) -> Bare {
    let Some(quoted) = rest.strip_prefix('"') else {
        let error = quoted_after(rest, "err=\"");
        return Bare { level, has_error: error.is_some_and(|error| !NO_ERROR.contains(&error)), text: rest.to_owned() };
    };
    let _ = quoted;
    let message = quoted_after(rest, "\"");
    let field = |name: &str| quoted_after(rest, &format!("{name}=\""));
    let error = field("err").or_else(|| field("error")).or_else(|| field("message"));
    joined(level, message, error, rest)
}

fn from_logfmt(line: &str) -> Bare {
    let plain = |name: &str| {
        let head = format!("{name}=");
        let at = line.find(&head).filter(|at| *at == 0 || line.as_bytes()[at - 1] == b' ')?;
        line[at + head.len()..].split(' ').next()
    };
    let field = |name: &str| quoted_after(line, &format!("{name}=\"")).or_else(|| plain(name));
    let level = plain("level").map_or(Level::Unknown, |word| level_of(word.trim_matches('"')));
    joined(level, field("msg"), field("error").or_else(|| field("err")), line)
}

fn libvirt_level(line: &str) -> Bare {
    let level = if line.contains(": error : ") {
        Level::Error
    } else if line.contains(": warning : ") {
        Level::Warning
    } else if line.contains(": info : ") || line.contains(": debug : ") {
        Level::Info
    } else {
        Level::Unknown
    };
    Bare { level, has_error: false, text: line.to_owned() }
}

/// Quotes of every depth as one quote, line ends and tabs as spaces.
fn unescape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut chars = text.chars().peekable();
    while let Some(char) = chars.next() {
        match char {
            '\\' => {
                while chars.next_if_eq(&'\\').is_some() {}
                match chars.peek() {
                    Some('"' | '\'') => {}
                    Some('n' | 't' | 'r') => {
                        chars.next();
                        out.push(' ');
                    }
                    _ => out.push('\\'),
                }
            }
            '\n' | '\t' | '\r' => out.push(' '),
            char => out.push(char),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(line: &str, level: Level, has_error: bool, text: &str) {
        assert_eq!(unwrap(line), Bare { level, has_error, text: text.to_owned() }, "{line}");
    }

    #[test]
    fn json_gives_message_and_reason() {
        check(
            r#"{"component":"virt-handler","level":"error","msg":"Sync failed.","reason":"server error. command SyncVMI failed: \"LibvirtError(Code=1, Domain=10, Message='x')\"","uid":"1"}"#,
            Level::Error,
            true,
            "Sync failed.: server error. command SyncVMI failed: \"LibvirtError(Code=1, Domain=10, Message='x')\"",
        );
        check(r#"{"level":"info","msg":"done","error":""}"#, Level::Info, false, "done");
        check(r#""reason":"virError(Code=38)""#, Level::Unknown, true, "virError(Code=38)");
        check(r#""msg":"a failed","pos":"x.go:1","reason":"b""#, Level::Unknown, true, "a failed: b");
    }

    #[test]
    fn klog_gives_message_and_error_without_fields() {
        check(
            r#"E0909 16:47:11.124948 3240779 pod_workers.go:1301] "Error syncing pod, skipping" err="failed to \"StartContainer\" for \"a\": \"x \\\"y\\\"\"" pod="prod/a""#,
            Level::Error,
            true,
            r#"Error syncing pod, skipping: failed to "StartContainer" for "a": "x "y"""#,
        );
        check("I0909 16:47:11.124948 1 a.go:1] plain text", Level::Info, false, "plain text");
    }

    #[test]
    fn logfmt_gives_message_and_error() {
        check(
            r#"time="2026-01-01T00:00:00Z" level=error msg="PullImage \"a\" failed" error="rpc error: code = Unknown""#,
            Level::Error,
            true,
            r#"PullImage "a" failed: rpc error: code = Unknown"#,
        );
        check(r#"level=info msg="fetched" error="<nil>""#, Level::Info, false, "fetched");
    }

    #[test]
    fn other_text_stays() {
        check("qemu-kvm: boom", Level::Unknown, false, "qemu-kvm: boom");
        check(
            "2026-01-01: 7: error : qemuMonitorIORead:494 : boom",
            Level::Error,
            false,
            "2026-01-01: 7: error : qemuMonitorIORead:494 : boom",
        );
        check("", Level::Unknown, false, "");
        check("{\"msg\":\"\\", Level::Unknown, false, "\\");
    }
}
