//! What administrators' commands print about a host, as text that was kept: systemctl, virsh, ps, df, ip, ss, nft and others.
//!
//! A recorded case has such outputs where an agent would have asked the kernel or a daemon. Parsers are pure and patient: columns
//! are found by the header's words, what is not there is `None`, and a line of another form is passed over, since a prompt, a
//! warning or half a line are normal in what people paste. [`parse_transcript`] cuts a file into the outputs of its commands;
//! [`parse_failure`] tells an output that is only an error, which is an observation too.

pub mod block;
pub mod files;
pub mod filter;
pub mod job;
pub mod network;
pub mod open_files;
pub mod ps;
pub mod reach;
pub mod runtime;
pub mod system;
pub mod units;
pub mod virsh;

/// One command of a transcript, and what it printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Section<'a> {
    /// What was typed. `None` for text before the first prompt.
    pub command: Option<&'a str>,
    /// Everything up to the next prompt.
    pub body: &'a str,
}

/// Commands that a `#` before them marks as typed by root; other lines that begin so are comments.
const COMMANDS: &[&str] = &[
    "chronyc",
    "crictl",
    "ctr",
    "curl",
    "cat",
    "df",
    "dmesg",
    "dmsetup",
    "drbdadm",
    "findmnt",
    "free",
    "getenforce",
    "grep",
    "ip",
    "iptables",
    "iptables-save",
    "journalctl",
    "kubectl",
    "ls",
    "lsblk",
    "lsmod",
    "lspci",
    "mount",
    "multipath",
    "multipathd",
    "nerdctl",
    "nft",
    "openssl",
    "ping",
    "ps",
    "rbd",
    "ss",
    "stat",
    "sudo",
    "sysctl",
    "systemctl",
    "timedatectl",
    "tracepath",
    "uptime",
    "virsh",
    "virt-host-validate",
    "oc",
    "date",
    "top",
    "uname",
    "hostname",
    "nc",
    "netstat",
    "nvme",
    "iscsiadm",
    "xfs_info",
    "ceph",
    "showmount",
    "rpcinfo",
    "ncat",
    "sestatus",
    "timeout",
];

/// Cuts a transcript at its prompts: `$ df -h`, `# df -h`, `[root@n1 ~]# df -h`, `root@n1:~$ df -h`. A text without prompts is
/// one section; empty sections are left out.
#[must_use]
pub fn parse_transcript(text: &str) -> Vec<Section<'_>> {
    let mut sections = Vec::new();
    let (mut command, mut start, mut offset) = (None, 0, 0);
    for line in text.split_inclusive('\n') {
        if let Some(typed) = typed(line.trim_end()) {
            sections.push(Section { command, body: &text[start..offset] });
            command = Some(typed);
            start = offset + line.len();
        }
        offset += line.len();
    }
    sections.push(Section { command, body: &text[start..] });
    sections.retain(|section| section.command.is_some() || !section.body.trim().is_empty());
    sections
}

/// What was typed at a prompt, if the line is one.
fn typed(line: &str) -> Option<&str> {
    let (sign, rest) = match line.as_bytes().first()? {
        b'$' => ('$', line.strip_prefix("$ ")?),
        b'#' => ('#', line.strip_prefix("# ")?),
        b'[' => prompt_end(line, line.find(']')?)?,
        _ => prompt_end(line, line.find('@').filter(|at| *at < 32 && !line[..*at].contains(' '))?)?,
    };
    let rest = rest.trim_start();
    let word = rest.split([' ', '\t']).next()?.rsplit('/').next()?;
    let is_command = match sign {
        '$' => word.starts_with(|letter: char| letter.is_ascii_lowercase() || letter == '.'),
        _ => COMMANDS.contains(&word),
    };
    is_command.then_some(rest)
}

/// The sign at the end of a prompt that names user and host, and what follows.
fn prompt_end(line: &str, from: usize) -> Option<(char, &str)> {
    let tail = line.get(from..)?;
    let sign = tail.char_indices().take(64).find(|(_, letter)| matches!(letter, '#' | '$'))?;
    let rest = tail.get(sign.0 + 1..)?.strip_prefix(' ')?;
    Some((sign.1, rest))
}

/// Why a command gave no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure {
    /// The program is not on the host, or was not to be run.
    NotInstalled,
    /// No answer in time.
    NoAnswer,
    /// Nobody listens at the daemon's socket.
    Refused,
    /// The daemon's socket is not there.
    NoSocket,
    /// The caller may not ask.
    Denied,
}

/// The failure that an output is, with the line that says so. `None` when the output begins in another way: an answer, or an
/// error of another kind.
#[must_use]
pub fn parse_failure(text: &str) -> Option<(Failure, &str)> {
    text.lines().filter(|line| !line.trim().is_empty()).take(4).find_map(|line| Some((failure_of(line)?, line.trim())))
}

fn failure_of(line: &str) -> Option<Failure> {
    let lower = line.to_ascii_lowercase();
    let has = |needles: &[&str]| needles.iter().any(|needle| lower.contains(needle));
    let is_shell = lower.starts_with("bash:")
        || lower.starts_with("-bash:")
        || lower.contains("sh: ")
        || lower.starts_with("sudo:");
    let is_socket = has(&["socket", "dial unix", ".sock", "connect:", "connection error", "transport"]);
    Some(match () {
        () if has(&["command not found", "executable file not found", "is not recognized"]) => Failure::NotInstalled,
        () if is_shell && has(&["not found", "no such file"]) => Failure::NotInstalled,
        () if has(&[
            "(no answer within",
            "deadline exceeded",
            "deadlineexceeded",
            "timed out",
            "i/o timeout",
            "timeout:",
        ]) =>
        {
            Failure::NoAnswer
        }
        () if is_socket && has(&["no such file or directory"]) => Failure::NoSocket,
        () if has(&["connection refused"]) => Failure::Refused,
        () if is_socket && has(&["permission denied"]) => Failure::Denied,
        () => return None,
    })
}

/// Bytes of `252G`, `4.8GiB`, `588K`, `1024`, `39.000 MiB`: suffixes count in 1,024. A number alone is in units of `unit_bytes`.
#[must_use]
pub fn parse_size(text: &str, unit_bytes: u64) -> Option<u64> {
    let text = text.trim();
    let end =
        text.find(|letter: char| !letter.is_ascii_digit() && letter != '.' && letter != ',').unwrap_or(text.len());
    let number: f64 = text.get(..end)?.replace(',', ".").parse().ok()?;
    let unit = text.get(end..)?.trim();
    let scale: f64 = match unit.as_bytes().first().map(u8::to_ascii_uppercase) {
        None => whole_f64(unit_bytes),
        Some(b'B') => 1.0,
        Some(b'K') => 1024.0,
        Some(b'M') => 1_048_576.0,
        Some(b'G') => 1_073_741_824.0,
        Some(b'T') => 1_099_511_627_776.0,
        Some(b'P') => 1_125_899_906_842_624.0,
        Some(b'E') => 1_152_921_504_606_846_976.0,
        Some(_) => return None,
    };
    let bytes = number * scale;
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "saturates; a negative number does not parse"
    )]
    (bytes.is_finite()).then_some(bytes as u64)
}

/// The number as a float; what is lost above 2^53 does not matter to a share.
pub(crate) fn whole_f64(number: u64) -> f64 {
    #[expect(clippy::cast_precision_loss, reason = "see above")]
    let float = number as f64;
    float
}

/// The value after `key` and a colon or equals sign, trimmed: `Job type:   None`, `NTP service : active`.
pub(crate) fn value_of<'a>(text: &'a str, key: &str) -> Option<&'a str> {
    text.lines().find_map(|line| {
        let rest = line.trim_start().strip_prefix(key)?.trim_start();
        Some(rest.strip_prefix([':', '='])?.trim())
    })
}

#[cfg(test)]
mod tests;
