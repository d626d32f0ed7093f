//! `df` and `mount`: file systems, how full they are and how they are mounted.
//!
//! Sources: coreutils `df`, util-linux `mount`, `proc(5)` for `/proc/mounts`.

use super::parse_size;

/// What a row of `df` counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Counted {
    /// Bytes.
    Bytes,
    /// Inodes (`df -i`).
    Inodes,
}

/// A row of `df`.
#[derive(Clone, Debug, PartialEq)]
pub struct DfRow {
    /// Device or server.
    pub source: String,
    /// Kind of file system, with `-T`.
    pub fs_type: Option<String>,
    /// Bytes or inodes.
    pub counted: Counted,
    /// All there are, in what is counted.
    pub size: Option<u64>,
    /// Used.
    pub used: Option<u64>,
    /// Free for ordinary users.
    pub available: Option<u64>,
    /// Used, percent as `df` rounds it up; `None` for `-`.
    pub used_pct: Option<u32>,
    /// Where it is mounted.
    pub mount_point: String,
}

/// A mount, from `mount` or a file of the kernel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MountRow {
    /// Device or server.
    pub source: String,
    /// Where.
    pub mount_point: String,
    /// Kind of file system.
    pub fs_type: String,
    /// Options, in their order.
    pub options: Vec<String>,
}

impl MountRow {
    /// Whether it is mounted read-only.
    #[must_use]
    pub fn is_read_only(&self) -> bool {
        self.options.iter().any(|option| option == "ro")
    }

    /// Whether the kernel made it read-only by itself: ext4 and xfs say so since Linux 6.6 and 6.8.
    #[must_use]
    pub fn is_after_error(&self) -> bool {
        self.options.iter().any(|option| matches!(option.as_str(), "emergency_ro" | "shutdown"))
    }
}

/// The rows; `None` without the header.
#[must_use]
pub fn parse_df(text: &str) -> Option<Vec<DfRow>> {
    let mut lines = text.lines();
    let header = lines.by_ref().find(|line| line.trim_start().starts_with("Filesystem") && line.contains("Mounted"))?;
    let has_type = header.contains(" Type ");
    let counted = if header.contains("IUse%") { Counted::Inodes } else { Counted::Bytes };
    // `1K-blocks`, `1024-blocks`, `1M-blocks`, `512-blocks`; suffixed sizes bring their own unit.
    let unit = header.split_whitespace().find_map(|word| parse_size(word.strip_suffix("-blocks")?, 1)).unwrap_or(1);
    let unit = if counted == Counted::Inodes { 1 } else { unit };
    let mut rows = Vec::new();
    let mut wrapped = String::new();
    for line in lines {
        if line.starts_with("df: ") || line.trim().is_empty() {
            continue;
        }
        // A long device name stands on a line of its own.
        let joined = format!("{wrapped} {line}");
        match df_row(&joined, has_type, counted, unit) {
            Some(row) => {
                rows.push(row);
                wrapped.clear();
            }
            None if line.split_whitespace().count() <= 2 => wrapped = line.to_owned(),
            None => wrapped.clear(),
        }
    }
    Some(rows)
}

fn df_row(line: &str, has_type: bool, counted: Counted, unit: u64) -> Option<DfRow> {
    let words: Vec<&str> = line.split_whitespace().collect();
    // Found from the percentage: names of devices and mount points may contain spaces.
    let first_number = 1 + usize::from(has_type);
    let pct_at = (first_number + 3..words.len()).find(|index| words[*index] == "-" || words[*index].ends_with('%'))?;
    let pct = words[pct_at].trim_end_matches('%').parse().ok();
    if pct.is_none() && words[pct_at] != "-" {
        return None;
    }
    let number = |back: usize| parse_size(words[pct_at - back], unit);
    let mount_point = words.get(pct_at + 1..).filter(|rest| !rest.is_empty())?.join(" ");
    Some(DfRow {
        source: words[..pct_at - 3 - usize::from(has_type)].join(" "),
        fs_type: has_type.then(|| words[pct_at - 4].to_owned()),
        counted,
        size: number(3),
        used: number(2),
        available: number(1),
        used_pct: pct,
        mount_point,
    })
}

/// The mounts; lines of another form are passed over.
#[must_use]
pub fn parse_mounts(text: &str) -> Vec<MountRow> {
    text.lines().filter_map(mount_row).collect()
}

fn mount_row(line: &str) -> Option<MountRow> {
    // `/dev/sda1 on / type ext4 (rw,relatime)`.
    if let Some((source, rest)) = line.split_once(" on ")
        && let Some((mount_point, rest)) = rest.split_once(" type ")
    {
        let (fs_type, options) = rest.split_once(" (")?;
        return Some(MountRow {
            source: source.trim().to_owned(),
            mount_point: mount_point.to_owned(),
            fs_type: fs_type.to_owned(),
            options: options.split(')').next()?.split(',').map(str::to_owned).collect(),
        });
    }
    let words: Vec<&str> = line.split_whitespace().collect();
    let [source, mount_point, fs_type, options, frequency, pass] = words.as_slice() else { return None };
    let is_number = |word: &str| word.bytes().all(|byte| byte.is_ascii_digit());
    if !mount_point.starts_with('/') || !is_number(frequency) || !is_number(pass) {
        return None;
    }
    Some(MountRow {
        source: unescape(source),
        mount_point: unescape(mount_point),
        fs_type: (*fs_type).to_owned(),
        options: options.split(',').map(str::to_owned).collect(),
    })
}

/// The kernel writes space, tab, line end and backslash as `\040`.
fn unescape(word: &str) -> String {
    word.replace("\\040", " ").replace("\\011", "\t").replace("\\012", "\n").replace("\\134", "\\")
}
