//! What documents say of the code is true of it.

use std::fs;
use std::path::Path;

/// The tests that a document names, as "`file: name`, `another of the same file`".
fn cited(text: &str) -> Vec<(&str, &str)> {
    let mut tests = Vec::new();
    let mut file = None;
    for (index, quoted) in text.split('`').enumerate() {
        if index % 2 == 0 {
            if !matches!(quoted.trim(), "," | ";") {
                file = None;
            }
        } else if let Some((path, name)) = quoted.split_once(".rs: ") {
            let end = path.len() + ".rs".len();
            file = Some(&quoted[..end]);
            tests.push((&quoted[..end], name));
        } else if let Some(file) = file {
            tests.push((file, quoted));
        }
    }
    tests
}

#[test]
fn every_test_that_the_security_page_names_exists() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let page = fs::read_to_string(root.join("docs/security.md")).unwrap();
    let tests = cited(&page);
    assert!(tests.len() > 100, "{}", tests.len());
    for (file, name) in tests {
        let source = fs::read_to_string(root.join(file)).unwrap_or_else(|error| panic!("{file}: {error}"));
        assert!(source.contains(&format!("fn {name}(")), "{file} has no test {name}");
    }
}

#[test]
fn several_tests_of_one_file_are_told_apart() {
    let text = "| case `x` | `a/b.rs: one`, `two`; `c.rs: three` | `400` | `d` |";
    assert_eq!(cited(text), [("a/b.rs", "one"), ("a/b.rs", "two"), ("c.rs", "three")]);
}
