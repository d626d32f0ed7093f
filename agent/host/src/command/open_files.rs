//! Open files of processes, from `ls -l /proc/PID/fd` and `lsof`, and device numbers, from `stat -Lc %t:%T`.
//!
//! A process keeps a device open whose name is gone, or that was made anew under the same name: the listing says `(deleted)`, or the
//! number behind the descriptor differs from the number of the name today. Sources: `proc(5)`, `lsof(8)`, coreutils `stat`.

/// An open file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OpenFile {
    /// The process, where the row tells.
    pub pid: Option<u32>,
    /// Its number.
    pub fd: Option<u32>,
    /// Owner of the link or the process, name or number.
    pub owner: Option<String>,
    /// Name of the program; only `lsof` tells.
    pub comm: Option<String>,
    /// The path in the process's own root, without ` (deleted)`.
    pub path: String,
    /// Whether the name is gone.
    pub is_deleted: bool,
}

/// The rows of `ls -l` on descriptors, and of `lsof` where the name is gone. Other lines are passed over.
#[must_use]
pub fn parse_open_files(text: &str) -> Vec<OpenFile> {
    text.lines().filter_map(|line| listed(line).or_else(|| lsof(line))).collect()
}

/// `lrwx------ 1 107 107 64 May 12 09:52 /proc/318/fd/23 -> '/dev/disk-0 (deleted)'`, or `23 -> /dev/disk-0`.
fn listed(line: &str) -> Option<OpenFile> {
    let (before, target) = line.trim_end().split_once(" -> ")?;
    let words: Vec<&str> = before.split_ascii_whitespace().collect();
    let link = words.last()?.trim_matches('\'');
    let (pid, fd) = match link.rsplit_once("/fd/") {
        Some((folder, fd)) => (folder.rsplit('/').next()?.parse().ok(), fd),
        None => (None, link),
    };
    let fd = fd.parse().ok()?;
    let is_long = words.first().is_some_and(|word| word.len() >= 10 && word.starts_with('l'));
    let (path, is_deleted) = gone(target.trim().trim_matches('\''));
    let owner = words.get(2).filter(|_| is_long && words.len() >= 8).map(|owner| (*owner).to_owned());
    Some(OpenFile { pid, fd: Some(fd), owner, comm: None, path: path.to_owned(), is_deleted })
}

/// `qemu-kvm 318 qemu 23u BLK 8,32 0t0 12 /dev/disk-0 (deleted)`.
fn lsof(line: &str) -> Option<OpenFile> {
    let (path, true) = gone(line.trim_end()) else { return None };
    let words: Vec<&str> = path.split_ascii_whitespace().collect();
    let at = words.iter().position(|word| {
        let digits = word.trim_end_matches(|letter: char| letter.is_ascii_alphabetic());
        digits.len() < word.len() && digits.parse::<u32>().is_ok()
    })?;
    let fd = words[at].trim_end_matches(|letter: char| letter.is_ascii_alphabetic()).parse().ok();
    let pid = words[..at].iter().skip(1).find_map(|word| word.parse().ok())?;
    Some(OpenFile {
        pid: Some(pid),
        fd,
        owner: words.get(at.checked_sub(1)?).map(|owner| (*owner).to_owned()),
        comm: words.first().map(|comm| (*comm).to_owned()),
        path: (*words.last()?).to_owned(),
        is_deleted: true,
    })
}

fn gone(target: &str) -> (&str, bool) {
    target.strip_suffix(" (deleted)").map_or((target, false), |path| (path, true))
}

/// The device number that `stat -c %t:%T` prints, hexadecimal; `None` for another output.
#[must_use]
pub fn parse_device_number(text: &str) -> Option<(u32, u32)> {
    let (major, minor) = text.trim().split_once(':')?;
    let number = |digits: &str| u32::from_str_radix(digits, 16).ok().filter(|_| digits.len() <= 8);
    Some((number(major)?, number(minor)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Process, number, owner, path, whether it is gone.
    type Row<'a> = (Option<u32>, Option<u32>, Option<&'a str>, &'a str, bool);

    #[track_caller]
    fn check(line: &str, want: Option<Row<'_>>) {
        let rows = parse_open_files(line);
        let got = rows.first().map(|row| (row.pid, row.fd, row.owner.as_deref(), row.path.as_str(), row.is_deleted));
        assert_eq!(got, want, "{line}");
    }

    #[test]
    fn a_descriptor_is_read_from_every_form_of_a_listing() {
        check(
            "lrwx------ 1 107 107 64 May 12 09:52 /proc/318/fd/23 -> '/dev/disk-0 (deleted)'",
            Some((Some(318), Some(23), Some("107"), "/dev/disk-0", true)),
        );
        check(
            "lrwx------. 1 qemu qemu 64 2026-05-12 09:52 23 -> /dev/disk-0 (deleted)",
            Some((None, Some(23), Some("qemu"), "/dev/disk-0", true)),
        );
        check("23 -> /dev/disk-0", Some((None, Some(23), None, "/dev/disk-0", false)));
        check(
            "qemu-kvm 318 qemu 23u BLK 8,32 0t0 12 /dev/disk-0 (deleted)",
            Some((Some(318), Some(23), Some("qemu"), "/dev/disk-0", true)),
        );
        for line in ["lrwxrwxrwx 1 root root 7 May 1 10:00 /bin -> usr/bin", "total 0", "(deleted)", " -> ", ""] {
            check(line, None);
        }
    }

    #[test]
    fn a_device_number_is_hexadecimal() {
        for (text, want) in
            [("8:20\n", Some((8, 0x20))), ("fd:4", Some((0xfd, 4))), ("8", None), ("x:y", None), (":", None)]
        {
            assert_eq!(parse_device_number(text), want, "{text}");
        }
    }
}
