//! What someone probably meant.

/// The name that is closest to `text`, if one is close enough to be meant.
pub(crate) fn nearest<'a>(text: &str, names: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let close_enough = 1 + text.chars().count() / 3;
    let distances = names.into_iter().map(|name| (distance(text, name), name));
    distances.filter(|(distance, _)| *distance <= close_enough).min().map(|(_, name)| name)
}

/// How many characters must be added, removed or changed to make one text the other.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, a) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, b) in b.iter().enumerate() {
            let change = diagonal + usize::from(a != *b);
            diagonal = row[j + 1];
            row[j + 1] = change.min(row[j] + 1).min(row[j + 1] + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_typing_error_is_recognised_and_another_word_is_not() {
        let names = ["listen", "peer_listen", "rack", "data_dir"];
        for (text, meant) in [
            ("lisen", Some("listen")),
            ("listener", Some("listen")),
            ("peer-listen", Some("peer_listen")),
            ("datadir", Some("data_dir")),
            ("rak", Some("rack")),
            ("retention", None),
            ("", None),
        ] {
            assert_eq!(nearest(text, names), meant, "{text}");
        }
    }
}
