//! The documents name tests as their evidence; this one checks that every named test exists.
#![expect(clippy::disallowed_methods, reason = "a test reads the source tree")]

use std::collections::BTreeSet;
use std::path::Path;

/// The names of all functions marked `#[test]`, those inside `proptest!`, and those in a list `for_every_machine!`, in the `.rs` files under `dir`.
fn collect_tests(dir: &Path, out: &mut BTreeSet<String>) {
    for entry in std::fs::read_dir(dir).unwrap().map(Result::unwrap) {
        let path = entry.path();
        if path.is_dir() {
            if path.file_name().is_some_and(|name| name != "target" && name != ".git") {
                collect_tests(&path, out);
            }
        } else if path.extension().is_some_and(|e| e == "rs") {
            tests_in(&std::fs::read_to_string(&path).unwrap(), out);
        }
    }
}

fn tests_in(text: &str, out: &mut BTreeSet<String>) {
    let (mut marked, mut listed) = (false, false);
    for line in text.lines().map(str::trim) {
        // The state machines' tests, each run over every one of them.
        if line == "for_every_machine! {" || line == "}" {
            listed = line != "}";
        } else if listed {
            out.insert(line.to_owned());
        } else if line.starts_with("#[test]") {
            marked = true;
        } else if let Some(rest) = line.strip_prefix("fn ").filter(|_| marked) {
            out.insert(rest.split(['(', '<']).next().unwrap().to_owned());
            marked = false;
        }
    }
}

/// What stands between backticks and looks like the name of a test: lower case, at least three underscores.
fn named_tests(markdown: &str) -> BTreeSet<&str> {
    let quoted = markdown.split('`').skip(1).step_by(2);
    quoted
        .filter(|name| {
            name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_')
        })
        .filter(|name| name.matches('_').count() >= 3)
        .collect()
}

#[test]
fn every_test_that_the_architecture_names_exists() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut tests = BTreeSet::new();
    for dir in ["src", "tests", "tools", "loadgen"] {
        collect_tests(&root.join(dir), &mut tests);
    }
    let page = std::fs::read_to_string(root.join("ARCHITECTURE.md")).unwrap();
    let named = named_tests(&page);
    assert!(named.len() > 40, "only {} names found: is the page still read right?", named.len());
    let missing: Vec<_> = named.iter().filter(|name| !tests.contains(**name)).collect();
    assert!(missing.is_empty(), "ARCHITECTURE.md names tests that do not exist: {missing:#?}");
}

#[test]
fn a_name_without_a_test_is_noticed() {
    let mut tests = BTreeSet::new();
    tests_in("#[test]\nfn one_that_is_there() {}\nfn a_helper_of_the_tests() {}", &mut tests);
    let named =
        named_tests("`one_that_is_there`, `a_helper_of_the_tests`, `Db::open`, `beach_loadgen`");
    let missing: Vec<_> = named.iter().filter(|name| !tests.contains(**name)).collect();
    assert_eq!(missing, [&"a_helper_of_the_tests"]);
}
