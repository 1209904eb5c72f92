//! As much of Markdown as the documents use: fenced blocks, code spans, tables, links.

use crate::repository;
use std::fs;
use std::path::Path;

/// A document without its fenced blocks.
pub struct Document {
    /// Relative to the repository.
    pub name: String,
    pub blocks: Vec<Block>,
    /// Each line with its number; those of fenced blocks are empty.
    lines: Vec<String>,
}

/// A fenced block.
pub struct Block {
    pub document: String,
    /// Of its first line.
    pub line: usize,
    pub language: String,
    pub text: String,
}

/// What stands between backticks, line breaks as spaces.
#[derive(Debug)]
pub struct Span {
    pub document: String,
    pub line: usize,
    pub text: String,
}

pub struct Row {
    pub line: usize,
    pub cells: Vec<String>,
}

impl Block {
    pub fn at(&self) -> String {
        format!("{} line {}", self.document, self.line)
    }

    pub fn first_line(&self) -> &str {
        self.text.lines().next().unwrap_or_default()
    }
}

impl Span {
    pub fn at(&self) -> String {
        format!("{} line {}", self.document, self.line)
    }
}

/// All documents of the repository, of `docs`, `deploy` and `tests`, but not the history of changes, which tells of the past.
pub fn documents() -> Vec<Document> {
    let mut names = Vec::new();
    find("", false, &mut names);
    for folder in ["docs/", "deploy/", "tests/"] {
        find(folder, true, &mut names);
    }
    names.sort();
    names.iter().map(|name| Document::load(name)).collect()
}

fn find(folder: &str, below: bool, names: &mut Vec<String>) {
    for entry in fs::read_dir(repository().join(folder)).expect("a folder of the repository") {
        let entry = entry.expect("a folder that can be read");
        let name = entry.file_name().into_string().expect("a name in UTF-8");
        // What npm and Python install beside the tests is not ours.
        if name.starts_with('.') || ["node_modules", "target", "venv", "CHANGELOG.md"].contains(&name.as_str()) {
            continue;
        }
        if entry.path().is_dir() {
            if below {
                find(&format!("{folder}{name}/"), true, names);
            }
        } else if name.ends_with(".md") {
            names.push(format!("{folder}{name}"));
        }
    }
}

impl Document {
    pub fn load(name: &str) -> Document {
        let path = repository().join(name);
        Document::parse(name, &fs::read_to_string(&path).unwrap_or_else(|error| panic!("{name}: {error}")))
    }

    pub fn parse(name: &str, text: &str) -> Document {
        let mut document = Document { name: name.to_owned(), blocks: Vec::new(), lines: Vec::new() };
        let mut open: Option<(Block, usize)> = None;
        for (index, line) in text.lines().enumerate() {
            let content = line.trim_start();
            let indent = line.len() - content.len();
            assert!(!content.starts_with("~~~"), "{name} line {}: write the fence as ```", index + 1);
            match (open.take(), content.strip_prefix("```")) {
                (None, None) => document.lines.push(line.to_owned()),
                (None, Some(language)) => {
                    let language = language.trim().to_owned();
                    open = Some((Block { document: name.into(), line: index + 2, language, text: "".into() }, indent));
                }
                (Some((block, _)), Some(_)) => document.blocks.push(block),
                (Some((mut block, indent)), None) => {
                    // In a list, a block is indented as its fence is.
                    block.text += if line.len() >= indent { &line[indent..] } else { content };
                    block.text.push('\n');
                    open = Some((block, indent));
                }
            }
            document.lines.resize(index + 1, String::new());
        }
        assert!(open.is_none(), "{name}: the last block has no end");
        document
    }

    /// The text outside of blocks.
    pub fn text(&self) -> String {
        self.lines.join("\n")
    }

    /// Every code span.
    pub fn spans(&self) -> Vec<Span> {
        let mut spans = Vec::new();
        let mut start = 0;
        // A span may go on in the next line, but neither in the next paragraph nor in the next row of a table.
        for end in 1..=self.lines.len() {
            let ends = |line: &String| line.is_empty() || line.trim_start().starts_with('|');
            if end < self.lines.len() && !ends(&self.lines[end]) && !ends(&self.lines[end - 1]) {
                continue;
            }
            let paragraph = self.lines[start..end].join("\n");
            let parts: Vec<&str> = paragraph.split('`').collect();
            assert!(parts.len() % 2 == 1, "{} line {}: a backtick without its second", self.name, start + 1);
            let mut line = start + 1;
            for (index, part) in parts.iter().enumerate() {
                if index % 2 == 1 {
                    let text = part.split_whitespace().collect::<Vec<_>>().join(" ");
                    spans.push(Span { document: self.name.clone(), line, text });
                }
                line += part.matches('\n').count();
            }
            start = end;
        }
        spans
    }

    pub fn has_table(&self, head: &[&str]) -> bool {
        self.lines.iter().any(|line| cells(line) == head)
    }

    /// The rows of the table that has this first row.
    pub fn table(&self, head: &[&str]) -> Vec<Row> {
        let mut rows = self.lines.iter().enumerate().skip_while(|(_, line)| cells(line) != head);
        assert!(rows.next().is_some(), "{} has no table {head:?}", self.name);
        let rows = rows.skip(1).take_while(|(_, line)| line.trim_start().starts_with('|'));
        rows.map(|(index, line)| Row { line: index + 1, cells: cells(line) }).collect()
    }

    /// The targets of `[text](target)` and `src="target"`, with their lines.
    pub fn links(&self) -> Vec<(usize, String)> {
        let mut links = Vec::new();
        for (index, line) in self.lines.iter().enumerate() {
            for (opening, closing) in [("](", ')'), ("src=\"", '"'), ("href=\"", '"')] {
                for rest in line.split(opening).skip(1) {
                    let target = rest.split(closing).next().expect("split yields something");
                    links.push((index + 1, target.to_owned()));
                }
            }
        }
        links
    }
}

fn cells(line: &str) -> Vec<String> {
    let inner = line.trim().strip_prefix('|').and_then(|line| line.strip_suffix('|'));
    inner.map_or_else(Vec::new, |line| line.split('|').map(|cell| cell.trim().to_owned()).collect())
}

/// The code spans of a cell.
pub fn code(cell: &str) -> Vec<&str> {
    cell.split('`').skip(1).step_by(2).collect()
}

/// Whether a file or folder is there, from a document's folder.
pub fn exists_beside(document: &str, target: &str) -> bool {
    let folder = Path::new(document).parent().expect("a document lies in a folder");
    repository().join(folder).join(target).exists()
}

#[test]
fn the_reader_finds_blocks_spans_tables_and_links() {
    let text = "Run `a\nb`:\n\n   ```sh\n   one\n\n     two\n   ```\n\n| x | y |\n|---|---|\n| `c` | [d](e.md) |\n";
    let document = Document::parse("some.md", text);
    let [block] = document.blocks.as_slice() else { panic!("one block") };
    assert_eq!((block.line, block.language.as_str(), block.text.as_str()), (5, "sh", "one\n\n  two\n"));
    let spans = document.spans().into_iter().map(|span| (span.line, span.text)).collect::<Vec<_>>();
    assert_eq!(spans, [(1, "a b".to_owned()), (12, "c".to_owned())]);
    assert_eq!(document.table(&["x", "y"])[0].cells, ["`c`", "[d](e.md)"]);
    assert_eq!(document.links(), [(12, "e.md".to_owned())]);
}
