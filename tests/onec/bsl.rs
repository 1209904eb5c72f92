//! A module in 1C's language, parsed.

use std::fs;
use std::path::{Path, PathBuf};
use tree_sitter::{Node, Parser, Tree};

pub fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/1c")
}

pub struct Module {
    pub text: String,
    tree: Tree,
}

/// `receiver.Вставить("name", value)` and the like.
#[derive(Debug)]
pub struct Call<'a> {
    /// What stands before the last dot; empty for a global or an own function.
    pub receiver: &'a str,
    pub name: &'a str,
    /// As they stand; empty where one is left out.
    pub arguments: Vec<&'a str>,
    pub line: usize,
}

pub struct Function<'a> {
    pub name: &'a str,
    pub node: Node<'a>,
    pub exported: bool,
    pub required: usize,
    pub parameters: usize,
}

impl Module {
    pub fn load() -> Module {
        let path = folder().join("b24proxy.bsl");
        Module::parse(fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display())))
    }

    pub fn parse(text: String) -> Module {
        let mut parser = Parser::new();
        parser.set_language(&tree_sitter_bsl::LANGUAGE.into()).expect("the grammar fits the parser");
        let tree = parser.parse(&text, None).expect("no time limit is set");
        Module { text, tree }
    }

    pub fn root(&self) -> Node<'_> {
        self.tree.root_node()
    }

    pub fn text_of(&self, node: Node) -> &str {
        &self.text[node.byte_range()]
    }

    /// Lines that do not parse.
    pub fn errors(&self) -> Vec<usize> {
        nodes(self.root()).filter(|n| n.is_error() || n.is_missing()).map(line).collect()
    }

    pub fn functions(&self) -> Vec<Function<'_>> {
        let definitions =
            of_kind(self.root(), "function_definition").chain(of_kind(self.root(), "procedure_definition"));
        definitions
            .map(|node| {
                let parameters: Vec<_> = of_kind(node, "parameter").map(|p| self.text_of(p)).collect();
                Function {
                    name: of_kind(node, "identifier").next().map(|n| self.text_of(n)).expect("a function has a name"),
                    node,
                    exported: of_kind(node, "EXPORT_KEYWORD").next().is_some(),
                    required: parameters.iter().filter(|p| !p.contains('=')).count(),
                    parameters: parameters.len(),
                }
            })
            .collect()
    }

    pub fn function(&self, name: &str) -> Node<'_> {
        let found = self.functions().into_iter().find(|f| f.name == name);
        found.unwrap_or_else(|| panic!("the module has no function {name}")).node
    }

    pub fn calls<'a>(&'a self, within: Node<'a>) -> Vec<Call<'a>> {
        let call = |node: Node<'a>| {
            let name = node.child(0).expect("a call has a name");
            // In an expression of its own, or at the end of a chain of accesses.
            let chain = node.parent().filter(|parent| matches!(parent.kind(), "call_expression" | "access"));
            let receiver = chain.map_or("", |chain| &self.text[chain.start_byte()..node.start_byte()]);
            Call {
                receiver: receiver.strip_suffix('.').unwrap_or(receiver),
                name: self.text_of(name),
                arguments: self.arguments(node),
                line: line(node),
            }
        };
        of_kind(within, "method_call").map(call).collect()
    }

    fn arguments<'a>(&'a self, call: Node<'a>) -> Vec<&'a str> {
        let mut cursor = call.walk();
        let Some(list) = call.children(&mut cursor).find(|n| n.kind() == "arguments") else { return Vec::new() };
        let mut arguments = vec![""];
        let mut cursor = list.walk();
        for child in list.children(&mut cursor) {
            match child.kind() {
                "(" | ")" => {}
                "," => arguments.push(""),
                _ => *arguments.last_mut().expect("never empty") = self.text_of(child),
            }
        }
        if arguments == [""] {
            arguments.clear();
        }
        arguments
    }

    /// The first arguments of `receiver.Вставить("name", …)`, in their order.
    pub fn inserted<'a>(&'a self, function: &str, receiver: &str) -> Vec<&'a str> {
        let calls = self.calls(self.function(function)).into_iter();
        calls.filter(|c| c.receiver == receiver && c.name == "Вставить").map(|c| literal(c.arguments[0])).collect()
    }

    /// `Новый NAME(…)`: the name and the arguments.
    pub fn constructed<'a>(&'a self, within: Node<'a>) -> Vec<(&'a str, Vec<&'a str>)> {
        of_kind(within, "new_expression")
            .map(|node| {
                let name = of_kind(node, "identifier").next().expect("a type has a name");
                (self.text_of(name), self.arguments(node))
            })
            .collect()
    }

    /// Names by which the module reads answers: `Конверт["success"]`.
    pub fn read_by_name(&self) -> Vec<(&str, &str)> {
        let text = |node| self.text_of(node);
        of_kind(self.root(), "index")
            .filter(|node| text(*node).starts_with('"'))
            .map(|node| {
                let whole = node.parent().expect("an index belongs to something");
                let receiver = &self.text[whole.start_byte()..node.start_byte()];
                (receiver.trim_end_matches('['), literal(text(node)))
            })
            .collect()
    }

    /// Every string of the code, without its quotes.
    pub fn strings(&self) -> Vec<&str> {
        of_kind(self.root(), "string_content").map(|node| self.text_of(node)).collect()
    }
}

pub fn literal(text: &str) -> &str {
    text.strip_prefix('"')
        .and_then(|text| text.strip_suffix('"'))
        .unwrap_or_else(|| panic!("{text} is not a string literal"))
}

pub fn line(node: Node) -> usize {
    node.start_position().row + 1
}

pub fn of_kind<'a>(within: Node<'a>, kind: &'static str) -> impl Iterator<Item = Node<'a>> {
    nodes(within).filter(move |node| node.kind() == kind)
}

/// The node and all below it, in the order of the text.
fn nodes(root: Node) -> impl Iterator<Item = Node> {
    let mut waiting = vec![root];
    std::iter::from_fn(move || {
        let node = waiting.pop()?;
        waiting.extend((0..node.child_count() as u32).rev().filter_map(|i| node.child(i)));
        Some(node)
    })
}
