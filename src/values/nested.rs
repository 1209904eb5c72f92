//! The arrays that PHP makes of a form's names with brackets.

use super::form::{fields, variable};
use serde::{Serialize, Serializer};

/// As many brackets of a name as PHP reads (`max_input_nesting_level`); a field with more of them is none.
const MAX_DEPTH: usize = 64;

/// What PHP makes of a form's fields of this variable, as JSON: a map at every level.
pub fn nested(form: &[u8], of: &str) -> String {
    let mut root = Node::default();
    for (name, value) in fields(form) {
        if variable(name.as_bytes()) != of.as_bytes() {
            continue;
        }
        let path = path(&name);
        if path.len() <= MAX_DEPTH {
            root.put(&path, value);
        }
    }
    let map = match root {
        Node::Map(map) => map,
        Node::Text(_) => Map::default(),
    };
    serde_json::to_string(&map).expect("plain data serializes")
}

/// What stands in the brackets of a field's decoded name; `None`: nothing, so that the value goes behind the others. What
/// follows a closed bracket, and one that is never closed, is no part of it.
fn path(name: &str) -> Vec<Option<&str>> {
    let name = name.trim_start_matches(' ').split('\0').next().unwrap_or_default();
    let mut rest = name.find('[').map_or("", |at| &name[at..]);
    let mut path = Vec::new();
    while let Some(inside) = rest.strip_prefix('[') {
        // C's isspace, of one character.
        let trimmed = inside.strip_prefix([' ', '\t', '\n', '\u{b}', '\u{c}', '\r']).unwrap_or(inside);
        let Some(end) = trimmed.find(']') else { break };
        path.push(if end == 0 { None } else { Some(&inside[..inside.len() - trimmed.len() + end]) });
        rest = &trimmed[end + 1..];
    }
    path
}

enum Node {
    Text(String),
    Map(Map),
}

/// In the order in which its keys came.
#[derive(Default)]
struct Map {
    entries: Vec<(String, Node)>,
    /// The key of a value without one; `None`: there is none left.
    next: Next,
}

struct Next(Option<i64>);

impl Default for Next {
    fn default() -> Next {
        Next(Some(0))
    }
}

impl Default for Node {
    fn default() -> Node {
        Node::Map(Map::default())
    }
}

impl Node {
    fn put(&mut self, path: &[Option<&str>], value: String) {
        let Some((key, rest)) = path.split_first() else {
            *self = Node::Text(value);
            return;
        };
        if let Node::Text(_) = self {
            *self = Node::default();
        }
        let Node::Map(map) = self else { return };
        if let Some(node) = map.at(*key) {
            node.put(rest, value);
        }
    }
}

impl Map {
    fn at(&mut self, key: Option<&str>) -> Option<&mut Node> {
        let key = match key {
            Some(key) => key.to_owned(),
            None => self.next.0?.to_string(),
        };
        // Fields of one array stand together.
        let found = self.entries.iter().rposition(|(known, _)| *known == key);
        let at = found.unwrap_or_else(|| {
            if let Some(number) = key.parse::<i64>().ok().filter(|number| number.to_string() == key) {
                self.next.0 = self.next.0.and_then(|next| Some(next.max(number.checked_add(1)?)));
            }
            self.entries.push((key, Node::default()));
            self.entries.len() - 1
        });
        self.entries.get_mut(at).map(|(_, node)| node)
    }
}

impl Serialize for Map {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.entries.iter().map(|(key, node)| (key, node)))
    }
}

impl Serialize for Node {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Node::Text(text) => serializer.serialize_str(text),
            Node::Map(map) => map.serialize(serializer),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn brackets_make_maps_at_every_level() {
        for (form, expected) in [
            ("data[FIELDS][ID]=7", r#"{"FIELDS":{"ID":"7"}}"#),
            ("data%5BFIELDS%5D%5BID%5D=%D0%96+1", r#"{"FIELDS":{"ID":"Ж 1"}}"#),
            ("data[a][]=x&data[a][]=y&data[a][5]=z&data[a][]=v", r#"{"a":{"0":"x","1":"y","5":"z","6":"v"}}"#),
            ("event=X&auth[access_token]=T&ts=1", "{}"),
            ("data=text", "{}"),
            ("data=text&data[a]=1", r#"{"a":"1"}"#),
            ("data[a]=1&data=text", "{}"),
            ("data[a]=1&data[a][b]=2&data[a][c]=3", r#"{"a":{"b":"2","c":"3"}}"#),
            ("data[b]=1&data[a]=2&data[b]=3", r#"{"b":"3","a":"2"}"#),
            ("data[a][b=1&data[c]d=2&data[ ]=3&data[ d]=4", r#"{"a":"1","c":"2","0":"3"," d":"4"}"#),
            ("data[b=1&xdata[a]=2&Data[a]=3& data[a]=4", r#"{"a":"4"}"#),
            ("data[\"\n]=\u{1}", "{\"\\\"\\n\":\"\\u0001\"}"),
            ("data[9223372036854775807]=1&data[]=2", r#"{"9223372036854775807":"1"}"#),
        ] {
            assert_eq!(nested(form.as_bytes(), "data"), expected, "{form}");
        }
    }

    #[test]
    fn a_field_that_is_nested_deeper_than_php_reads_is_none() {
        let field = |depth: usize| format!("data{}=1", "[a]".repeat(depth));
        assert!(nested(field(64).as_bytes(), "data").len() > 64);
        assert_eq!(nested(field(65).as_bytes(), "data"), "{}");
        assert_eq!(nested(field(20_000).as_bytes(), "data"), "{}");
    }

    proptest! {
        #[test]
        fn no_form_panics_and_what_is_made_of_it_is_a_map_of_maps(
            form in "(data|a|0|9223372036854775807|\\[|\\]|=|&|%5B|%5D|%00|%ff|\\+| |\\.|Ж|\"|\\\\){0,40}",
        ) {
            fn is_map_of_maps(value: &serde_json::Value) -> bool {
                match value {
                    serde_json::Value::Object(map) => map.values().all(is_map_of_maps),
                    other => other.is_string(),
                }
            }
            let value: serde_json::Value = serde_json::from_str(&nested(form.as_bytes(), "data")).unwrap();
            prop_assert!(value.is_object() && is_map_of_maps(&value));
        }

        /// Another reader by PHP's rules: the simulator's.
        #[test]
        fn it_is_what_php_makes_of_it(
            form in "((data|d\\.ta|data |x)(\\[(|a|b|0|1|7|01|-1| |a b|\\.)\\]){0,3}(c|\\[|)(=[xyЖ%+]{0,2})?&){0,8}",
        ) {
            fn maps(value: &serde_json::Value) -> serde_json::Value {
                match value {
                    serde_json::Value::Array(list) => {
                        list.iter().enumerate().map(|(i, value)| (i.to_string(), maps(value))).collect()
                    }
                    serde_json::Value::Object(map) => map.iter().map(|(key, value)| (key.clone(), maps(value))).collect(),
                    other => other.clone(),
                }
            }
            let php: serde_json::Value = serde_json::from_str(&simulator::form_as_json(form.as_bytes())).unwrap();
            let expected = Some(maps(&php["data"])).filter(serde_json::Value::is_object);
            let ours: serde_json::Value = serde_json::from_str(&nested(form.as_bytes(), "data")).unwrap();
            prop_assert_eq!(ours, expected.unwrap_or_else(|| serde_json::json!({})), "{}", form);
        }
    }
}
