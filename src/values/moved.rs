//! Where what is kept of a portal is, when it is not where it is looked for: told to the caller too, who may be the one that
//! still asks an old node.

use super::portal::PortalName;
use serde::{Deserialize, Serialize};

const BEGIN: &str = "What is kept of ";

/// Places are shown without user and password.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Mark {
    Moved {
        to: String,
    },
    /// The move has not ended.
    Arriving {
        from: String,
    },
}

impl Mark {
    pub fn sentence(&self, portal: &PortalName) -> String {
        match self {
            Mark::Moved { to } => {
                format!("{BEGIN}{portal} has moved to {to}: let [storage] in proxy.toml name that place")
            }
            Mark::Arriving { from } => format!(
                "{BEGIN}{portal} is on its way here from {from}, and that has not ended: run the same b24proxy move again"
            ),
        }
    }
}

/// The sentence of a mark in what is said of a storage.
pub fn told_in(words: &str) -> Option<&str> {
    words.find(BEGIN).map(|at| &words[at..])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sentence_is_found_again_and_nothing_before_it_is_shown() {
        let portal = PortalName::parse("acme.bitrix24.ru").unwrap();
        for mark in [Mark::Moved { to: "postgres://db.lan/b".into() }, Mark::Arriving { from: "/home/u".into() }] {
            let said = mark.sentence(&portal);
            assert_eq!(told_in(&format!("/a/detail: {said}")), Some(said.as_str()));
        }
        assert_eq!(told_in("the disk is full"), None);
    }
}
