//! `lsblk`, `multipath`, `drbdadm`, `dmsetup`, `rbd`: block devices and what is built of them.
//!
//! Sources: util-linux `lsblk`, multipath-tools `multipath -ll`, drbd-utils `drbdadm status`, kernel
//! `Documentation/admin-guide/device-mapper/thin-provisioning.rst`.

/// A row of `lsblk`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BlockRow {
    /// Name.
    pub name: String,
    /// The row above it in the tree.
    pub parent: Option<String>,
    /// `disk`, `part`, `mpath`, `lvm`, `crypt`, `raid1`, `loop`, `rom`. `None` without the column.
    pub kind: Option<String>,
    /// Where it is mounted.
    pub mount_point: Option<String>,
}

/// A path of a multipath device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Path {
    /// Device, for example `sdb`.
    pub device: String,
    /// What the kernel has: `active`, `failed`, `undef`.
    pub kernel_state: String,
    /// What multipathd's checker found: `ready`, `faulty`, `shaky`, `ghost`.
    pub checker_state: String,
}

/// A multipath device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MultipathRow {
    /// Name.
    pub name: String,
    /// Its `dm-` device.
    pub dm_name: Option<String>,
    /// Its paths.
    pub paths: Vec<Path>,
}

impl Path {
    /// Whether no I/O can go over it.
    #[must_use]
    pub fn is_failed(&self) -> bool {
        self.kernel_state == "failed" || matches!(self.checker_state.as_str(), "faulty" | "down")
    }
}

/// A resource of DRBD.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DrbdRow {
    /// Name.
    pub name: String,
    /// `Primary` or `Secondary`.
    pub role: Option<String>,
    /// Why I/O is suspended: `quorum`, `no-data`, `user`, `fencing`.
    pub suspended: Option<String>,
    /// State of the own disk, for example `UpToDate`.
    pub disk: Option<String>,
    /// Whether it says that the quorum is lost.
    pub is_quorum_lost: bool,
    /// Peers that are not connected, with their state.
    pub lost_peers: Vec<(String, String)>,
}

/// A thin pool of `dmsetup status`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ThinPool {
    /// Name.
    pub name: String,
    /// Blocks of data used, and all.
    pub data: Option<(u64, u64)>,
    /// Blocks of metadata used, and all.
    pub metadata: Option<(u64, u64)>,
    /// `rw`, `ro`, `out_of_data_space`, or `Fail`.
    pub mode: Option<String>,
}

/// The tree; `None` without a header.
#[must_use]
pub fn parse_lsblk(text: &str) -> Option<Vec<BlockRow>> {
    let mut lines = text.lines();
    let header = lines.by_ref().find(|line| line.starts_with("NAME "))?;
    let column = |name: &str| header.split_whitespace().position(|word| word == name);
    let kind_at = column("TYPE");
    let mount_at = header.find("MOUNTPOINT");
    let mut above: Vec<(usize, String)> = Vec::new();
    let mut rows = Vec::new();
    for line in lines {
        let is_drawing = |letter: char| matches!(letter, ' ' | '│' | '├' | '└' | '─' | '|' | '`' | '-');
        let name_start = line.find(|letter| !is_drawing(letter)).unwrap_or(line.len());
        // Width as drawn: one column for each letter.
        let depth = line[..name_start].chars().count();
        let words: Vec<&str> = line[name_start..].split_whitespace().collect();
        let Some(name) = words.first().filter(|_| depth < 40) else { continue };
        above.retain(|(parent_depth, _)| *parent_depth < depth);
        let drawn = line.chars().count();
        let mount_point =
            mount_at.filter(|at| drawn > *at).map(|at| line.chars().skip(at).collect::<String>().trim().to_owned());
        let kind = kind_at.and_then(|at| words.get(at)).map(|kind| (*kind).to_owned());
        // Further mount points of one device stand on lines that begin with one.
        if !name.starts_with('/') {
            rows.push(BlockRow {
                name: (*name).to_owned(),
                parent: above.last().map(|(_, name)| name.clone()),
                kind,
                mount_point: mount_point.filter(|point| point.starts_with(['/', '['])),
            });
            above.push((depth, (*name).to_owned()));
        }
    }
    Some(rows)
}

/// The maps of `multipath -ll`.
#[must_use]
pub fn parse_multipath(text: &str) -> Vec<MultipathRow> {
    let mut maps: Vec<MultipathRow> = Vec::new();
    for line in text.lines() {
        let words: Vec<&str> =
            line.split_whitespace().filter(|word| !word.chars().all(|c| "|`-+\\_".contains(c))).collect();
        let is_path = words.first().is_some_and(|word| word.split(':').count() == 4 || *word == "#:#:#:#");
        if is_path {
            if let (Some(map), [_, device, _, kernel, rest @ ..]) = (maps.last_mut(), words.as_slice()) {
                map.paths.push(Path {
                    device: (*device).to_owned(),
                    kernel_state: (*kernel).to_owned(),
                    checker_state: rest.first().map(|word| (*word).to_owned()).unwrap_or_default(),
                });
            }
            continue;
        }
        let dm_name = words.iter().find(|word| word.strip_prefix("dm-").is_some_and(|n| n.parse::<u32>().is_ok()));
        if let (Some(dm_name), Some(name)) = (dm_name, words.first())
            && !line.starts_with([' ', '|', '`'])
        {
            // `create: mpatha (…) undef …` while a map is made.
            let name = words.get(1).filter(|_| name.ends_with(':')).unwrap_or(name);
            maps.push(MultipathRow {
                name: (*name).to_owned(),
                dm_name: Some((*dm_name).to_owned()),
                paths: Vec::new(),
            });
        }
    }
    maps
}

/// The resources of `drbdadm status`.
#[must_use]
pub fn parse_drbd_status(text: &str) -> Vec<DrbdRow> {
    let mut rows: Vec<DrbdRow> = Vec::new();
    for line in text.lines() {
        let words: Vec<&str> = line.split_whitespace().collect();
        let value = |key: &str| words.iter().find_map(|word| word.strip_prefix(key)?.strip_prefix(':'));
        if !line.starts_with([' ', '\t']) {
            if let (Some(name), Some(role)) = (words.first(), value("role")) {
                rows.push(DrbdRow {
                    name: (*name).to_owned(),
                    role: Some(role.to_owned()),
                    suspended: value("suspended").map(str::to_owned),
                    ..DrbdRow::default()
                });
            }
            continue;
        }
        let Some(row) = rows.last_mut() else { continue };
        if let Some(state) = value("connection").filter(|state| *state != "Connected") {
            row.lost_peers.push((words.first().map(|peer| (*peer).to_owned()).unwrap_or_default(), state.to_owned()));
        }
        if row.disk.is_none() {
            row.disk = value("disk").map(str::to_owned);
        }
        row.is_quorum_lost |= value("quorum") == Some("no");
        if row.suspended.is_none() {
            row.suspended = value("suspended").map(str::to_owned);
        }
    }
    rows
}

/// The thin pools of `dmsetup status`.
#[must_use]
pub fn parse_thin_pools(text: &str) -> Vec<ThinPool> {
    text.lines()
        .filter_map(|line| {
            let (name, rest) = line.split_once(": ")?;
            let words: Vec<&str> = rest.split_whitespace().collect();
            let at = words.iter().position(|word| *word == "thin-pool")?;
            let pair = |index: usize| {
                let (used, all) = words.get(at + index)?.split_once('/')?;
                Some((used.parse().ok()?, all.parse().ok()?))
            };
            let is_mode = |word: &&&str| matches!(**word, "rw" | "ro" | "out_of_data_space" | "Fail");
            Some(ThinPool {
                name: name.trim().to_owned(),
                data: pair(3),
                metadata: pair(2),
                mode: words.iter().find(is_mode).map(|mode| (*mode).to_owned()),
            })
        })
        .collect()
}

/// Addresses of those who watch an image, of `rbd status`; `None` when the output is another.
#[must_use]
pub fn parse_rbd_watchers(text: &str) -> Option<Vec<String>> {
    text.contains("Watchers:").then(|| {
        let watchers = text.split_whitespace().filter_map(|word| word.strip_prefix("watcher="));
        watchers.map(str::to_owned).collect()
    })
}
