//! What is offered for a Tab, and in which words.

use clap::builder::StyledStr;

use super::*;

fn words(line: &str) -> Vec<OsString> {
    line.split(' ').map(OsString::from).collect()
}

/// What kubectl reads for a line after `kubectl kulprit `; its last word is being typed. No central answers.
fn offered(line: &str) -> Vec<String> {
    let line = line.replacen(' ', " --central http://127.0.0.1:1 ", 1);
    for_cobra(Called::Completion, &words(&line)).lines().map(str::to_owned).collect()
}

#[test]
fn cobras_words_are_a_candidate_a_line_with_its_help_and_a_directive() {
    let with_help = |help: &str| CompletionCandidate::new("b").help(Some(StyledStr::from(help.to_owned())));
    let candidates = [CompletionCandidate::new("a"), with_help("first\nsecond"), with_help("")];
    assert_eq!(in_cobras_words(&candidates), "a\nb\tfirst\nb\n:4\n");
    assert_eq!(in_cobras_words(&[]), ":4\n");
}

#[test]
fn questions_are_offered_with_what_they_ask_and_flags_to_who_begins_one() {
    let first = for_cobra(Called::Completion, &[]);
    assert!(first.contains("\nincidents\tThe incidents"), "{first}");
    assert!(!first.contains("--") && !first.contains(COBRA), "{first}");
    assert_eq!(offered("why --al"), ["--all-namespaces\tAll namespaces: a short name is looked for in each", ":4"]);
    assert_eq!(offered("nodes -o j"), ["json\tOne JSON object", ":4"]);
}

#[test]
fn causes_are_offered_without_central() {
    assert_eq!(offered("causes LocalDiskSt"), ["LocalDiskStalled", ":4"]);
}

#[test]
fn without_central_nothing_is_offered_and_nothing_is_said() {
    for line in ["why ", "why -n ", "why vm/d", "node n", "vms --node ", "incidents 01"] {
        assert_eq!(offered(line), [":4"], "{line}");
    }
}

#[test]
fn every_argument_that_is_a_name_has_a_completer() {
    let command = command(Called::Kulprit, &[]);
    for (name, id, _) in NAMED {
        let subcommand = command.find_subcommand(name).expect("the table names subcommands");
        let arg = subcommand.get_arguments().find(|arg| arg.get_id() == id).expect("and their arguments");
        assert!(arg.get::<ArgValueCompleter>().is_some(), "{name} {id}");
    }
}

#[track_caller]
fn check_place(line: &str, want: [Option<&str>; 3]) {
    let place = place(&words(line));
    let got = [place.central, place.context, place.namespace];
    assert_eq!(
        got.map(|value| value.filter(|value| !value.is_empty())),
        want.map(|value| value.map(str::to_owned)),
        "{line}"
    );
}

#[test]
fn the_line_says_where_central_is_up_to_what_is_not_understood() {
    let all = [Some("http://c:1"), Some("lab"), Some("prod")];
    check_place("kulprit --central http://c:1 why --context lab -n prod vm/d", all);
    check_place("kulprit why vm/d --central=http://c:1 -n prod --context", [Some("http://c:1"), None, Some("prod")]);
    check_place("kulprit --central http://c:1 nonsense -n", [Some("http://c:1"), None, None]);
    check_place("kulprit why --central=http://c:1 --no-such-flag -n prod", [Some("http://c:1"), None, None]);
}

#[track_caller]
fn check_vms(namespace: Option<&str>, current: &str, want: &[&str]) {
    let vms = [("prod", "db-0"), ("test", "db-1"), ("", "alone"), ("prod", "")];
    let vms = vms.map(|(namespace, name)| (namespace.to_owned(), name.to_owned()));
    let got: Vec<String> = of_vms(vms, namespace, current).collect();
    assert_eq!(got, want, "{namespace:?} {current}");
}

#[test]
fn a_vm_is_named_as_it_would_be_found() {
    check_vms(Some("prod"), "", &["db-0", "test/db-1", "alone"]);
    check_vms(None, "d", &["prod/db-0", "test/db-1", "alone"]);
    check_vms(Some("prod"), "vm/d", &["vm/db-0", "vm/test/db-1", "vm/alone"]);
    check_vms(None, "vmi/", &["vmi/prod/db-0", "vmi/test/db-1", "vmi/alone"]);
    check_vms(None, "prod/", &["prod/db-0", "test/db-1", "alone"]);
}

#[test]
fn a_name_that_a_shell_would_read_otherwise_is_not_offered() {
    assert!(["db-0", "prod/db_0.a", "node/n1"].into_iter().all(is_a_word));
    for name in ["a b", "a\nb", "$(reboot)", "a;b", "\u{1b}[31m", "a'b"] {
        assert!(!is_a_word(name), "{name:?}");
    }
}

#[test]
fn a_central_that_does_not_answer_in_time_is_left() {
    let never = std::future::pending::<Result<(), AskError>>();
    assert_eq!(ask_for(Duration::from_millis(1), never), None);
    assert_eq!(ask_for(WITHIN, async { Err::<(), _>(AskError::BadSpan(String::new())) }), None);
    assert_eq!(ask_for(WITHIN, async { Ok(1) }), Some(1));
}

#[test]
fn scripts_call_this_program() {
    for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
        let script = String::from_utf8(script(shell)).expect("a script is text");
        assert!(script.contains("COMPLETE") && script.contains("kulprit"), "{script}");
    }
}
