//! Planted bugs (`src/base/planted.rs`) are in no program that anybody runs, and each of them is planted.

#![expect(clippy::disallowed_methods, reason = "a test that reads the source tree and a binary")]

use beachdb::base::planted::{Bug, PRESENT};
use std::collections::BTreeMap;
use std::path::Path;

/// As in `src/base/planted.rs`, where it exists only in a build that carries the bugs. Cut in two, so that this file
/// is not mistaken for a carrier.
fn marker() -> Vec<u8> {
    [b"this program carries planted".as_slice(), b" bugs of BeachDB".as_slice()].concat()
}

fn contains(haystack: &[u8], needle: &[u8]) -> bool {
    haystack.windows(needle.len()).any(|w| w == needle)
}

#[test]
fn the_daemon_carries_no_planted_bug() {
    const { assert!(!PRESENT) };
    let source = std::fs::read("src/base/planted.rs").expect("the list of bugs");
    assert!(contains(&source, &marker()), "the marker changed: this test looks for nothing");
    let beachd = env!("CARGO_BIN_EXE_beachd");
    let program = std::fs::read(beachd).expect(beachd);
    assert!(contains(&program, b"beachd ready"), "{beachd} is not the daemon");
    assert!(!contains(&program, &marker()), "{beachd} carries planted bugs");
}

#[test]
fn every_bug_in_the_list_is_planted_in_the_code() {
    let mut places: BTreeMap<String, Vec<String>> = BTreeMap::new();
    collect(Path::new("src"), &mut places);
    let absent: Vec<_> =
        Bug::ALL.iter().map(|b| b.name()).filter(|b| !places.contains_key(*b)).collect();
    assert!(absent.is_empty(), "listed in src/base/planted.rs and planted nowhere: {absent:?}");
}

/// Every `planted!(Name)` outside the list's own file.
fn collect(dir: &Path, places: &mut BTreeMap<String, Vec<String>>) {
    for entry in std::fs::read_dir(dir).expect("src") {
        let path = entry.expect("an entry of src").path();
        if path.is_dir() {
            collect(&path, places);
        } else if path.extension().is_some_and(|e| e == "rs") && !path.ends_with("base/planted.rs")
        {
            let text = std::fs::read_to_string(&path).expect("a source file");
            for rest in text.split("planted!(").skip(1) {
                let name: String = rest.chars().take_while(|c| c.is_alphanumeric()).collect();
                places.entry(name).or_default().push(path.display().to_string());
            }
        }
    }
}
