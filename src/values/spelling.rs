//! Words that are meant, though others are written.

/// Levenshtein distance.
pub fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, ca) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, cb) in b.iter().enumerate() {
            let substituted = diagonal + usize::from(ca != *cb);
            diagonal = row[j + 1];
            row[j + 1] = substituted.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

/// The most similar of some known words; empty where none is known.
pub fn nearest<'w>(word: &str, known: &[&'w str]) -> &'w str {
    known.iter().min_by_key(|other| distance(word, other)).copied().unwrap_or("")
}

/// The most similar, where it is so near that it may be meant.
pub fn near<'w>(word: &str, known: &[&'w str]) -> Option<&'w str> {
    let is_near = |other: &&str| distance(word, other) <= (word.chars().count() / 3).max(2);
    known.iter().copied().filter(is_near).min_by_key(|other| distance(word, other))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distance_counts_edits() {
        assert_eq!(distance("clint_id", "client_id"), 1);
        assert_eq!(distance("", "abc"), 3);
    }

    #[test]
    fn what_is_near_may_be_meant() {
        let known = ["check", "install-url"];
        assert_eq!(near("chek", &known), Some("check"));
        assert_eq!(near("instalurl", &known), Some("install-url"));
        assert_eq!(near("frobnicate", &known), None);
        assert_eq!(near("", &known), None);
        assert_eq!(near("ab", &[]), None);
    }
}
