//! The layers of one line: who wrapped it (CRI, journal, JSON, klog, …), and what was said.
//!
//! A line is often wrapped several times: a kubelet line in the journal is syslog around klog, a launcher line on disk is CRI
//! around JSON around QEMU. Layers are taken off from the outside until none is left. Of several stamps the one that tells the
//! most is the line's time, and of equals the innermost: virt-launcher-monitor prints QEMU's log long after it was written.

use std::borrow::Cow;

use super::stamp::{self, Quality, When};
use super::{About, json};

/// Wrappings that are taken off one line.
const MAX_LAYERS: usize = 6;

/// What the layers told.
#[derive(Debug, Default)]
pub(super) struct Meta {
    pub(super) time: Option<(When, Quality)>,
    pub(super) ident: Option<String>,
    pub(super) part: Option<String>,
    pub(super) pid: Option<u32>,
    pub(super) priority: Option<u8>,
    pub(super) is_kernel: Option<bool>,
    /// A CRI line that goes on in the next.
    pub(super) is_partial: bool,
    pub(super) about: About,
}

impl Meta {
    pub(super) fn stamp(&mut self, when: When, quality: Quality) {
        if self.time.is_none_or(|(_, known)| quality >= known) {
            self.time = Some((when, quality));
        }
    }
}

/// What a layer leaves.
pub(super) enum Rest {
    /// From this byte on.
    From(usize),
    /// A text of its own.
    Own(String),
}

/// Takes off all layers.
pub(super) fn peel(line: &str, at_usec: i64) -> (Meta, Cow<'_, str>) {
    let mut meta = Meta::default();
    let mut text = match line.contains('\u{1b}') {
        true => Cow::Owned(without_colours(line)),
        false => Cow::Borrowed(line),
    };
    for _ in 0..MAX_LAYERS {
        text = match (layer(&text, at_usec, &mut meta), text) {
            (None, text) => return (meta, text),
            (Some(Rest::Own(own)), _) => Cow::Owned(own),
            (Some(Rest::From(offset)), Cow::Borrowed(text)) => Cow::Borrowed(text.get(offset..).unwrap_or_default()),
            (Some(Rest::From(offset)), Cow::Owned(mut text)) => {
                text.drain(..offset.min(text.len()));
                Cow::Owned(text)
            }
        };
        if meta.is_partial {
            break;
        }
    }
    (meta, text)
}

/// Terminal colours: some programs write them to files too.
fn without_colours(line: &str) -> String {
    let mut clean = String::with_capacity(line.len());
    let mut rest = line;
    while let Some(start) = rest.find('\u{1b}') {
        clean.push_str(&rest[..start]);
        rest = &rest[start + 1..];
        if let Some(sequence) = rest.strip_prefix('[') {
            let end = sequence.find(|letter: char| letter.is_ascii_alphabetic()).map_or(sequence.len(), |end| end + 1);
            rest = &sequence[end..];
        }
    }
    clean.push_str(rest);
    clean
}

fn layer(text: &str, at_usec: i64, meta: &mut Meta) -> Option<Rest> {
    let first = text.bytes().next()?;
    match first {
        b'{' => return json::peel(text, at_usec, meta),
        b'I' | b'W' | b'E' | b'F' if text.as_bytes().get(1).is_some_and(u8::is_ascii_digit) => {
            return klog(text, at_usec, meta);
        }
        b'<' => return priority_prefix(text, meta),
        b'0'..=b'9' => {
            if let Some(rest) = raw_kmsg(text, meta) {
                return Some(rest);
            }
        }
        b'[' | b't' | b'l' => {
            if let Some(rest) = logfmt(text, at_usec, meta) {
                return Some(rest);
            }
        }
        _ => {}
    }
    if let Some(rest) = dmesg_decoded(text, meta) {
        return Some(rest);
    }
    if let Some(rest) = dmesg_delta(text) {
        return Some(rest);
    }
    stamped(text, at_usec, meta)
}

/// `E1121 06:42:07.114982   17014 remote_image.go:250] text`.
fn klog(text: &str, at_usec: i64, meta: &mut Meta) -> Option<Rest> {
    let stamp = stamp::klog(text.get(1..)?, at_usec)?;
    let after = text.get(1 + stamp.len..)?;
    let bracket = after.char_indices().take(200).find(|(_, letter)| *letter == ']')?.0;
    let thread = after.get(..bracket)?.split_whitespace().next()?;
    meta.stamp(stamp.when, stamp.quality);
    meta.priority = Some(match text.as_bytes()[0] {
        b'I' => 6,
        b'W' => 4,
        b'E' => 3,
        _ => 2,
    });
    meta.pid = meta.pid.or_else(|| thread.parse().ok());
    let from = 1 + stamp.len + bracket + 1;
    Some(Rest::From(from + usize::from(text.as_bytes().get(from) == Some(&b' '))))
}

/// `<6>text`: level and facility of syslog.
fn priority_prefix(text: &str, meta: &mut Meta) -> Option<Rest> {
    let close = text.bytes().take(6).position(|byte| byte == b'>')?;
    let number: u32 = text.get(1..close)?.parse().ok()?;
    set_priority(meta, number);
    Some(Rest::From(close + 1))
}

fn set_priority(meta: &mut Meta, number: u32) {
    meta.priority = u8::try_from(number & 7).ok();
    meta.is_kernel = Some(number >> 3 == 0);
}

/// `6,1234,5678,-;text` of `/dev/kmsg`.
fn raw_kmsg(text: &str, meta: &mut Meta) -> Option<Rest> {
    let semicolon = text.char_indices().take(96).find(|(_, letter)| *letter == ';')?.0;
    let record = crate::kmsg::parse_kmsg_record(text.as_bytes()).ok()?;
    meta.priority = Some(record.level);
    meta.is_kernel = Some(record.is_from_kernel());
    meta.stamp(When::Boot(i64::try_from(record.usec).ok()?), Quality::Boot);
    Some(match record.text {
        Cow::Borrowed(_) => Rest::From(semicolon + 1),
        Cow::Owned(own) => Rest::Own(own),
    })
}

const FACILITIES: [&str; 12] =
    ["kern", "user", "mail", "daemon", "auth", "syslog", "lpr", "news", "uucp", "cron", "authpriv", "ftp"];
const LEVELS: [&str; 8] = ["emerg", "alert", "crit", "err", "warn", "notice", "info", "debug"];

/// `kern  :warn  : [   12.345678] text` of `dmesg -x`.
fn dmesg_decoded(text: &str, meta: &mut Meta) -> Option<Rest> {
    let colon = text.bytes().take(10).position(|byte| byte == b':')?;
    let facility = text.get(..colon)?.trim_end();
    let after = text.get(colon + 1..)?;
    let second = after.bytes().take(10).position(|byte| byte == b':')?;
    let level = after.get(..second)?.trim();
    if !FACILITIES.contains(&facility) {
        return None;
    }
    meta.priority = LEVELS.iter().position(|name| *name == level).and_then(|index| u8::try_from(index).ok());
    meta.priority?;
    meta.is_kernel = Some(facility == "kern");
    Some(Rest::From(colon + 1 + second + 1 + usize::from(after.as_bytes().get(second + 1) == Some(&b' '))))
}

/// `[  +0.010370] text` of `dmesg -H`: the time since the line before, which is not known here.
fn dmesg_delta(text: &str) -> Option<Rest> {
    let rest = text.strip_prefix('[')?;
    let close = rest.bytes().take(24).position(|byte| byte == b']')?;
    let (secs, fraction) = rest.get(..close)?.trim_start().strip_prefix('+')?.split_once('.')?;
    let is_number = |digits: &str| !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
    (is_number(secs) && is_number(fraction)).then_some(())?;
    let from = 1 + close + 1;
    Some(Rest::From(from + usize::from(text.as_bytes().get(from) == Some(&b' '))))
}

/// The syslog level of a word of any of the log libraries.
pub(super) fn level_of(word: &str) -> Option<u8> {
    let is = |names: &[&str]| names.iter().any(|name| name.eq_ignore_ascii_case(word));
    Some(match () {
        () if is(&["trace", "debug", "dbg", "d"]) => 7,
        () if is(&["info", "information", "inf", "i"]) => 6,
        () if is(&["notice"]) => 5,
        () if is(&["warn", "warning", "wrn", "w"]) => 4,
        () if is(&["error", "err", "e"]) => 3,
        () if is(&["fatal", "critical", "crit", "panic", "dpanic", "f", "c"]) => 2,
        () if is(&["alert"]) => 1,
        () if is(&["emerg"]) => 0,
        () => return None,
    })
}

/// `time="…" level=error msg="…" error="…" key=value`: logrus, slog, and their kin. The message comes first, then its error,
/// then the other pairs as they were.
fn logfmt(text: &str, at_usec: i64, meta: &mut Meta) -> Option<Rest> {
    let start = match text.as_bytes().first()? {
        b'[' => {
            let close = text.bytes().take(64).position(|byte| byte == b']')?;
            close + 1 + text.get(close + 1..)?.bytes().take_while(|byte| *byte == b' ').count()
        }
        _ => 0,
    };
    let fields = text.get(start..)?;
    if !["time=", "level=", "ts=", "t="].iter().any(|key| fields.starts_with(key)) {
        return None;
    }
    let (mut message, mut error, mut others) = (None, None, String::new());
    let mut is_any = false;
    for (key, value) in pairs(fields) {
        match key {
            "time" | "ts" | "t" => {
                if let Some((usec, quality)) = stamp::whole(&value, at_usec) {
                    meta.stamp(When::Wall(usec), quality);
                }
            }
            "level" | "lvl" => meta.priority = level_of(&value).or(meta.priority),
            "msg" | "message" => message = Some(value),
            "error" | "err" | "reason" if error.is_none() => error = Some(value),
            "source" | "caller" | "file" | "func" | "stacktrace" => {}
            _ => {
                others.push(' ');
                others.push_str(key);
                others.push_str(&format!("={value:?}"));
            }
        }
        is_any = true;
    }
    let mut own = message.filter(|_| is_any)?.into_owned();
    if let Some(error) = error {
        own.push_str(": ");
        own.push_str(&error);
    }
    own.push_str(&others);
    Some(Rest::Own(own))
}

/// `key=value` and `key="quoted value"` pairs; what is no pair is passed over.
fn pairs(text: &str) -> impl Iterator<Item = (&str, Cow<'_, str>)> {
    let mut rest = text;
    std::iter::from_fn(move || {
        loop {
            rest = rest.trim_start();
            if rest.is_empty() {
                return None;
            }
            let end = rest.find([' ', '=']).unwrap_or(rest.len());
            let (key, after) = rest.split_at(end);
            let Some(after) = after.strip_prefix('=').filter(|_| !key.is_empty()) else {
                rest = after.get(1..).unwrap_or_default();
                continue;
            };
            let (value, left) = match after.strip_prefix('"') {
                Some(quoted) => unquote(quoted),
                None => {
                    let end = after.find(' ').unwrap_or(after.len());
                    (Cow::Borrowed(&after[..end]), &after[end..])
                }
            };
            rest = left;
            return Some((key, value));
        }
    })
}

/// A Go string literal after its first quote, and what follows its last.
fn unquote(text: &str) -> (Cow<'_, str>, &str) {
    if let Some(end) = text.find(['"', '\\'])
        && text.as_bytes()[end] == b'"'
    {
        return (Cow::Borrowed(&text[..end]), &text[end + 1..]);
    }
    let mut own = String::with_capacity(text.len());
    let mut letters = text.char_indices();
    while let Some((index, letter)) = letters.next() {
        match letter {
            '"' => return (Cow::Owned(own), &text[index + 1..]),
            '\\' => match letters.next() {
                Some((_, 'n' | 'r')) => own.push(' '),
                Some((_, 't')) => own.push('\t'),
                Some((_, other)) => own.push(other),
                None => {}
            },
            other => own.push(other),
        }
    }
    (Cow::Owned(own), "")
}

/// A stamp, and whatever its program puts between the stamp and the text.
fn stamped(text: &str, at_usec: i64, meta: &mut Meta) -> Option<Rest> {
    let stamp = stamp::take(text, at_usec)?;
    let after = text.get(stamp.len..)?;
    // A number that only looks like a stamp goes on with letters.
    if after.starts_with(|letter: char| letter.is_alphanumeric()) {
        return None;
    }
    meta.stamp(stamp.when, stamp.quality);
    let from = stamp.len
        + cri(after, meta)
            .or_else(|| libvirt(after, meta))
            .or_else(|| caller(after))
            .or_else(|| journal(after, stamp, meta))
            .or_else(|| if is_dmesgs(text, stamp) { None } else { levelled(after, stamp, meta) })
            .unwrap_or_else(|| after.len() - after.trim_start_matches([' ', '\t', ':']).len());
    Some(Rest::From(from))
}

/// Whether only dmesg writes this stamp: in brackets, or ISO with a comma and a zone. The kernel's text follows at once, and may
/// begin with a word that is a level elsewhere: `critical medium error`, `WARNING: Pool 'tank' …`.
fn is_dmesgs(text: &str, stamp: stamp::Stamp) -> bool {
    let written = text.get(..stamp.len).unwrap_or_default();
    written.starts_with('[')
        || stamp.quality == Quality::Full && !stamp.is_zulu && written.contains(',') && written.contains('T')
}

/// ` stderr F text`; containers' logs on disk. Source: Kubernetes CRI `pkg/kubelet/kuberuntime/logs`.
fn cri(after: &str, meta: &mut Meta) -> Option<usize> {
    let rest = after.strip_prefix(" stdout ").or_else(|| after.strip_prefix(" stderr "))?;
    let tag = rest.split(' ').next()?;
    let kind = tag.split(':').next()?;
    if kind != "F" && kind != "P" {
        return None;
    }
    meta.is_partial = kind == "P";
    let from = after.len() - rest.len() + tag.len();
    Some((from + 1).min(after.len()))
}

/// `: 123: error : func:line : text` of libvirt's own log, and ` error 25 func:line: text` as KubeVirt cuts it.
fn libvirt(after: &str, meta: &mut Meta) -> Option<usize> {
    let words: Option<usize> = (|| {
        let rest = after.strip_prefix(": ")?;
        let (pid, rest) = rest.split_once(": ")?;
        let pid: u32 = pid.trim().parse().ok()?;
        let (level, rest) = rest.split_once(" : ").or_else(|| rest.split_once(": "))?;
        meta.priority = Some(level_of(level.trim())?);
        meta.pid = Some(pid);
        // The function is kept out of the text: it changes with each release.
        let is_place = |place: &str| place.rsplit_once(':').is_some_and(|(_, line)| line.parse::<u32>().is_ok());
        let text = rest.split_once(" : ").filter(|(place, _)| is_place(place.trim())).map_or(rest, |(_, text)| text);
        Some(after.len() - text.trim_start().len())
    })();
    words.or_else(|| {
        let rest = after.strip_prefix(' ')?;
        let (level, rest) = rest.split_once(' ')?;
        let (thread, rest) = rest.split_once(' ')?;
        let level = level_of(level).filter(|_| level.len() > 1)?;
        let thread: u32 = thread.parse().ok()?;
        meta.priority = Some(level);
        meta.pid = Some(thread);
        let is_place = |place: &str| place.rsplit_once(':').is_some_and(|(_, line)| line.parse::<u32>().is_ok());
        let text = rest.split_once(": ").filter(|(place, _)| is_place(place)).map_or(rest, |(_, text)| text);
        Some(after.len() - text.trim_start_matches([':', ' ']).len())
    })
}

/// `[  T123] text` after dmesg's stamp on kernels that print the caller.
fn caller(after: &str) -> Option<usize> {
    let rest = after.strip_prefix(' ').unwrap_or(after).strip_prefix('[')?;
    let close = rest.bytes().take(12).position(|byte| byte == b']')?;
    let number = rest.get(..close)?.trim().strip_prefix(['T', 'C'])?;
    number.parse::<u32>().ok()?;
    Some(after.len() - rest.get(close + 1..)?.trim_start().len())
}

/// ` host ident[pid]: text` of journald and syslog.
fn journal(after: &str, stamp: stamp::Stamp, meta: &mut Meta) -> Option<usize> {
    let rest = after.strip_prefix(' ')?;
    let (word, more) = rest.split_once(' ')?;
    // Without a host: `journalctl --no-hostname`.
    if let Some((ident, pid)) = identifier(word) {
        let is_sure = pid.is_some() || ident == "kernel";
        if !is_sure || stamp.quality == Quality::Boot || stamp.is_zulu {
            return None;
        }
        set_ident(meta, ident, pid);
        return Some(after.len() - more.len());
    }
    let is_host = word.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_'));
    if !is_host || word.is_empty() {
        return None;
    }
    // `systemd-udevd[1]: text` or, at the line's end, `kernel:`.
    let (word, text) = more.split_once(' ').unwrap_or((more, ""));
    let (ident, pid) = identifier(word)?;
    let is_sure = pid.is_some() || ident == "kernel";
    let is_journal = match stamp.quality {
        Quality::Boot => is_sure,
        Quality::NoYear => true,
        Quality::NoZone => is_sure,
        Quality::Full => is_sure || !stamp.is_zulu,
    };
    if !is_journal {
        return None;
    }
    set_ident(meta, ident, pid);
    Some(after.len() - text.len())
}

fn set_ident(meta: &mut Meta, ident: &str, pid: Option<u32>) {
    meta.is_kernel = Some(ident == "kernel");
    meta.ident = Some(ident.to_owned());
    meta.pid = pid;
}

/// `kubelet[17014]:` or `kernel:`.
fn identifier(word: &str) -> Option<(&str, Option<u32>)> {
    let word = word.strip_suffix(':')?;
    let (ident, pid) = match word.strip_suffix(']').and_then(|word| word.split_once('[')) {
        Some((ident, pid)) => (ident, Some(pid.parse().ok()?)),
        None => (word, None),
    };
    (!ident.is_empty() && !ident.contains([':', '[', '{', '"', '='])).then_some((ident, pid))
}

/// `[INFO][77] text`, `\tERROR\tlogger\ttext`, ` E | text`, ` ERROR text`: the level and nothing else is taken.
fn levelled(after: &str, stamp: stamp::Stamp, meta: &mut Meta) -> Option<usize> {
    let rest = after.trim_start_matches([' ', '\t']);
    let end = rest.find([' ', '\t', ']', ':'])?;
    let (word, left) = rest.split_at(end);
    let (word, is_bracketed) = match word.strip_prefix('[') {
        Some(word) => (word, true),
        None => (word, false),
    };
    let priority = level_of(word)?;
    // `critical medium error …`: a small word before a blank is a level only behind a Go program's stamp.
    if !is_bracketed && !stamp.is_zulu && word.len() > 1 && left.starts_with(' ') && !word.contains(char::is_uppercase)
    {
        return None;
    }
    let mut left = left;
    if is_bracketed {
        left = left.strip_prefix(']')?;
        // Calico: `[INFO][1234] `.
        if let Some(pid) = left.strip_prefix('[').and_then(|pid| pid.split_once(']')) {
            left = pid.1;
        }
    } else if word.len() == 1 {
        left = left.strip_prefix(" | ")?;
    }
    meta.priority = Some(priority);
    Some(after.len() - left.trim_start_matches([' ', '\t', ':', '-']).len())
}
