//! Links from one document to a file.

use super::files::{File, root};

/// `path: link`, for each link to a file that does not exist.
pub(super) fn broken(documents: &[File]) -> Vec<String> {
    let mut broken = Vec::new();
    for document in documents {
        let directory = root().join(document.path.parent().expect("a file lies in a directory"));
        for link in links(&document.text) {
            let target = link.split('#').next().expect("a link has a first part");
            let elsewhere = link.contains("://") || link.starts_with("mailto:") || target.is_empty();
            if !elsewhere && !directory.join(target).exists() {
                broken.push(format!("{}: {link}", document.path.display()));
            }
        }
    }
    broken
}

/// What stands between `](` and `)`.
fn links(text: &str) -> impl Iterator<Item = &str> {
    text.match_indices("](").filter_map(|(place, _)| text[place + 2..].split_once(')')).map(|(link, _)| link)
}

#[test]
fn links_are_found() {
    let found: Vec<&str> = links("see [a](docs/a.md), [b](https://b) and [c](#c).").collect();
    assert_eq!(found, ["docs/a.md", "https://b", "#c"]);
}
