//! The shape of the workspace, held: who may depend on whom, and how long a file may grow.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// Lines past which a file probably holds two concepts.
const LONGEST_FILE: usize = 700;

/// Every crate and what it may depend on, by folder.
const DIRECTIONS: [(&str, &[&str]); 7] = [
    ("proto", &[]),
    ("store", &["proto"]),
    ("apiserver", &["proto", "store"]),
    ("controllers", &["proto"]),
    ("agent", &["proto"]),
    ("cli", &["proto", "store", "apiserver", "controllers", "agent"]),
    ("chaos", &["proto", "store", "apiserver", "controllers", "agent", "cli"]),
];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn manifest(folder: &str) -> toml::Table {
    let path = root().join(folder).join("Cargo.toml");
    std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display())).parse().unwrap()
}

#[test]
fn crates_depend_only_in_the_agreed_direction() {
    for (folder, allowed) in DIRECTIONS {
        let manifest = manifest(folder);
        let allowed: BTreeSet<String> = allowed
            .iter()
            .map(|name| if *name == "cli" { "kontiki".into() } else { format!("kontiki-{name}") })
            .collect();
        let ours: BTreeSet<String> = manifest["dependencies"]
            .as_table()
            .unwrap()
            .keys()
            .filter(|name| name.starts_with("kontiki"))
            .cloned()
            .collect();
        assert!(ours.is_subset(&allowed), "{folder} may depend on {allowed:?}, and depends on {ours:?}");
    }
}

#[test]
fn no_openraft_type_leaves_the_store() {
    for (folder, _) in DIRECTIONS {
        let manifest = manifest(folder);
        for section in ["dependencies", "dev-dependencies"] {
            let uses = manifest.get(section).and_then(|s| s.get("openraft")).is_some();
            assert!(!uses || folder == "store", "{folder} names openraft in {section}");
        }
    }
    for file in sources("store/src") {
        let inside = file.components().any(|part| part.as_os_str() == "raft");
        let names_it = std::fs::read_to_string(&file).unwrap().contains("use openraft");
        assert!(inside || !names_it, "{} is outside store/src/raft and uses openraft", file.display());
    }
}

#[test]
fn no_file_needs_a_map() {
    for (folder, _) in DIRECTIONS {
        for file in sources(folder) {
            let lines = std::fs::read_to_string(&file).unwrap().lines().count();
            assert!(
                lines <= LONGEST_FILE,
                "{} has {lines} lines; it probably holds two concepts",
                file.display()
            );
        }
    }
}

fn sources(folder: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders = vec![root().join(folder)];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).unwrap().map(Result::unwrap) {
            let path = entry.path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                found.push(path);
            }
        }
    }
    assert!(!found.is_empty(), "{folder} has sources");
    found
}
