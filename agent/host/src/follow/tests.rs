//! Growth, rotation, truncation, bursts, long lines and where a file is begun.

use std::fs;
use std::io::Write as _;

use super::*;

const LIMITS: FollowLimits = FollowLimits { max_bytes: 256 * 1024, max_behind_bytes: 1024 * 1024 };
const LOG: &str = "0.log";

struct Folder(tempfile::TempDir);

impl Folder {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn write(&self, text: &str) {
        let mut file = fs::OpenOptions::new().create(true).append(true).open(self.0.path().join(LOG)).unwrap();
        file.write_all(text.as_bytes()).unwrap();
    }

    fn rename(&self, to: &str) {
        fs::rename(self.0.path().join(LOG), self.0.path().join(to)).unwrap();
    }

    fn read(&self, file: &mut FollowedFile, limits: FollowLimits) -> (String, Followed) {
        let mut text = String::new();
        let root = HostRoot::new(self.0.path());
        let followed = file
            .read(&root, limits, &mut Vec::new(), |bytes| text.push_str(std::str::from_utf8(bytes).unwrap()))
            .unwrap();
        assert_eq!(followed.n_bytes, text.len() as u64);
        (text, followed)
    }
}

fn begin(start: FollowStart) -> FollowedFile {
    FollowedFile::new(LOG, start)
}

#[test]
fn what_was_added_is_given_once_and_a_line_only_when_it_is_whole() {
    let (folder, mut file) = (Folder::new(), begin(FollowStart::Beginning));
    assert!(file.read(&HostRoot::new(folder.0.path()), LIMITS, &mut Vec::new(), |_| ()).unwrap_err().is_not_found());
    folder.write("a\nb\nhalf ");
    assert_eq!(folder.read(&mut file, LIMITS).0, "a\nb\n");
    assert_eq!(folder.read(&mut file, LIMITS).0, "");
    folder.write("a line\n");
    assert_eq!(folder.read(&mut file, LIMITS).0, "half a line\n");
    let mut late = begin(FollowStart::End);
    assert_eq!(folder.read(&mut late, LIMITS).0, "");
    folder.write("new\n");
    assert_eq!(folder.read(&mut late, LIMITS).0, "new\n");
}

#[test]
fn a_renamed_file_is_read_to_its_end_before_the_new_one() {
    let (folder, mut file) = (Folder::new(), begin(FollowStart::Beginning));
    folder.write("a\n");
    folder.read(&mut file, LIMITS);
    folder.write("b\n");
    folder.rename("0.log.20261121-064207");
    folder.write("c\n");
    let (text, followed) = folder.read(&mut file, LIMITS);
    assert_eq!((text.as_str(), followed.n_lost_files, followed.n_skipped_bytes), ("b\nc\n", 0, 0));
}

#[test]
fn a_file_that_its_program_renamed_itself_is_read_to_its_end() {
    let (folder, mut file) = (Folder::new(), begin(FollowStart::Beginning));
    folder.write("a\n");
    folder.read(&mut file, LIMITS);
    folder.write("b\n");
    folder.rename("0-2026-11-21T06-42-07.000.log");
    folder.write("c\n");
    let (text, followed) = folder.read(&mut file, LIMITS);
    assert_eq!((text.as_str(), followed.n_lost_files), ("b\nc\n", 0));
}

#[test]
fn a_rest_that_was_removed_and_a_truncated_file_are_counted() {
    let (folder, mut file) = (Folder::new(), begin(FollowStart::Beginning));
    folder.write("a\nb\n");
    folder.read(&mut file, LIMITS);
    // Renamed first, so that the new file cannot get the old one's inode.
    folder.rename("gone");
    folder.write("c\nd\n");
    let (text, followed) = folder.read(&mut file, LIMITS);
    assert_eq!((text.as_str(), followed.n_lost_files), ("c\nd\n", 1));
    fs::write(folder.0.path().join(LOG), "e\n").unwrap();
    let (text, followed) = folder.read(&mut file, LIMITS);
    assert_eq!((text.as_str(), followed.n_lost_files), ("e\n", 1));
}

#[test]
fn a_burst_is_read_in_pieces_and_of_too_much_the_oldest_is_left_out_and_counted() {
    let line = "x".repeat(99) + "\n";
    let limits = FollowLimits { max_bytes: 200 * 1024, max_behind_bytes: 1024 * 1024 };
    let (folder, mut file) = (Folder::new(), begin(FollowStart::Beginning));
    let n_lines = 10_000;
    folder.write(&line.repeat(n_lines));
    let (mut n_given, mut n_calls) = (0, 0);
    loop {
        let (text, followed) = folder.read(&mut file, limits);
        (n_given, n_calls) = (n_given + text.lines().count(), n_calls + 1);
        assert!(text.len() <= 200 * 1024 + 2 * MAX_LINE_BYTES, "bounded");
        if !followed.is_behind {
            break;
        }
    }
    assert!(n_given == n_lines && n_calls >= 4, "{n_given} lines in {n_calls} calls");
    let n_lines = 30_000;
    folder.write(&line.repeat(n_lines));
    let (mut n_given, mut n_skipped) = (0, 0);
    loop {
        let (text, followed) = folder.read(&mut file, limits);
        assert!(text.lines().all(|line| line.len() == 99), "whole lines only");
        n_given += text.len() as u64;
        n_skipped += followed.n_skipped_bytes;
        if !followed.is_behind {
            break;
        }
    }
    assert!(n_skipped > 0 && n_given > 0);
    assert_eq!(n_given + n_skipped, n_lines as u64 * 100, "what is not given is counted");
}

#[test]
fn a_line_longer_than_64_kib_is_cut_and_its_rest_counted() {
    let (folder, mut file) = (Folder::new(), begin(FollowStart::Beginning));
    let n_more = 100_000;
    folder.write(&("y".repeat(MAX_LINE_BYTES + n_more) + "\nz\n"));
    let (text, followed) = folder.read(&mut file, LIMITS);
    assert!(text.ends_with("yz\n") && text.len() == MAX_LINE_BYTES + 2, "{}", text.len());
    assert_eq!(followed.n_skipped_bytes, n_more as u64 + 1);
}

#[test]
fn what_follows_a_line_longer_than_192_kib_does_not_wait_for_the_next_write() {
    for n_bytes in [3 * MAX_LINE_BYTES, 5 * MAX_LINE_BYTES, 3 * MAX_LINE_BYTES + 100] {
        let (folder, mut file) = (Folder::new(), begin(FollowStart::Beginning));
        folder.write(&("y".repeat(n_bytes) + "\nz\n"));
        let mut text = String::new();
        loop {
            let (more, followed) = folder.read(&mut file, FollowLimits { max_bytes: 1024 * 1024, ..LIMITS });
            text += &more;
            if !followed.is_behind {
                break;
            }
        }
        assert!(text.ends_with("yz\n") && text.len() == MAX_LINE_BYTES + 2, "{n_bytes}: {}", text.len());
    }
    // The cut falls into the line behind it.
    let (folder, mut file) = (Folder::new(), begin(FollowStart::Beginning));
    let next = "z".repeat(MAX_LINE_BYTES - 200) + "\n";
    folder.write(&("y".repeat(3 * MAX_LINE_BYTES - 100) + "\n" + &next));
    assert!(folder.read(&mut file, LIMITS).0.ends_with(&next));
}

#[test]
fn a_file_is_begun_at_a_time() {
    let line = |n: usize| format!("2026-11-21T06:{:02}:{:02}.000000000Z stderr F line {n}\n", n / 60 % 60, n % 60);
    let all: Vec<String> = (0..3_000).map(line).collect();
    let folder = Folder::new();
    folder.write(&all.concat());
    let at = crate::log::parse_stamp(&all[0], 0).unwrap();
    for n in [0, 1, 50, 1_499, 1_500, 2_998, 2_999, 3_000] {
        let mut file = begin(FollowStart::Since(at + i64::try_from(n).unwrap() * 1_000_000));
        let (text, _) = folder.read(&mut file, LIMITS);
        assert_eq!(text.lines().count(), 3_000 - n, "from line {n}");
        assert!(text.lines().next().is_none_or(|first| first == all[n].trim_end()), "from line {n}");
    }
    let undated = Folder::new();
    undated.write(&"no stamp\n".repeat(5_000));
    assert_eq!(undated.read(&mut begin(FollowStart::Since(at)), LIMITS).0, "", "nothing that is known to be new");
}
