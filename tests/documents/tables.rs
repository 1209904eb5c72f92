//! Tables are complete, and links lead somewhere.

use crate::markdown::{code, documents, exists_beside, Document, Row};
use crate::repository;
use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

/// The one table of the documents that has this first row, and where it stands.
fn the_table(head: &[&str]) -> (String, Vec<Row>) {
    let mut pages: Vec<_> = documents().into_iter().filter(|document| document.has_table(head)).collect();
    let names: Vec<_> = pages.iter().map(|page| page.name.clone()).collect();
    assert_eq!(names.len(), 1, "the documents with a table {head:?}: {names:?}");
    let page = pages.remove(0);
    let rows = page.table(head);
    (page.name, rows)
}

/// Status and `error_code` of every error, from the one table of the program; the status that Bitrix24 decides is "as
/// sent".
fn real_codes() -> BTreeSet<(String, String)> {
    let source = include_str!("../../src/values/error.rs");
    let table = source.split("fn status_and_code").nth(1).expect("the program's table");
    let table = table.split("\n    }\n").next().expect("split yields something");
    let pair = |arm: &str| {
        let (status, code) = arm.split_once(", \"")?;
        let status = if status.parse::<u16>().is_ok() { status } else { "as sent" };
        Some((status.to_owned(), code.split('"').next()?.to_owned()))
    };
    table.split("=> (").skip(1).map(|arm| pair(arm).unwrap_or_else(|| panic!("not a pair: {arm}"))).collect()
}

#[test]
fn the_table_of_errors_is_the_programs() {
    let rows = Document::load("docs/errors.md").table(&["status", "`error_code`", "meaning, and what to do"]);
    let pairs = rows.iter().flat_map(|row| code(&row.cells[1]).into_iter().map(|code| (row.cells[0].as_str(), code)));
    let shown: BTreeSet<_> = pairs.map(|(status, code)| (status.to_owned(), code.to_owned())).collect();
    assert_eq!(shown, real_codes(), "docs/errors.md, and src/values/error.rs");
}

#[test]
fn the_table_of_errors_is_the_same_in_russian() {
    let (page, rows) = the_table(&["статус", "`error_code`", "что делать"]);
    let pairs = rows.iter().flat_map(|row| code(&row.cells[1]).into_iter().map(|code| (row.cells[0].as_str(), code)));
    let status =
        |status: &str| if status == "ответ Битрикс24" { "as sent".to_owned() } else { status.to_owned() };
    let shown: BTreeSet<_> = pairs.map(|(shown, code)| (status(shown), code.to_owned())).collect();
    assert_eq!(shown, real_codes(), "{page}, and src/values/error.rs");
}

/// The titles of the pages that say why an installation did not happen, Russian and English, as the program has them; without
/// those that only Bitrix24's server hears, in answer to an event.
fn titles_of_problems() -> BTreeSet<(String, String)> {
    let source = include_str!("../../src/serve/page/texts.rs");
    let problems = source.split("pub fn problem(").nth(1).expect("the pages' words");
    // A title stands in one line with its translation.
    let titles = problems.lines().filter_map(|line| {
        let (russian, rest) = line.split_once("language.pick(\"")?.1.split_once('"')?;
        let english = rest.strip_prefix(", \"")?.split('"').next()?;
        Some((russian.to_owned(), english.to_owned()))
    });
    titles.filter(|(russian, _)| !["Токены действуют", "Отказано"].contains(&russian.as_str())).collect()
}

#[test]
fn every_page_that_an_administrator_may_see_is_in_the_tables() {
    let (russian, english): (BTreeSet<_>, BTreeSet<_>) = titles_of_problems().into_iter().unzip();
    assert!(russian.len() > 10, "{russian:?}");
    for (head, real) in [(["страница говорит", "что делать"], russian), (["the page says", "what to do"], english)]
    {
        let (page, rows) = the_table(&head);
        let shown: BTreeSet<_> = rows.into_iter().map(|row| row.cells[0].clone()).collect();
        assert_eq!(shown, real, "{page}, and src/serve/page/texts.rs");
    }
}

/// `deploy/pictures/way*.svg`: the classes of the texts are those that the pictures are drawn with.
#[test]
fn the_statuses_in_the_drawings_are_those_of_the_table() {
    let known: BTreeSet<_> = real_codes().into_iter().map(|(status, _)| status).collect();
    let drawn = ["way.svg", "way.ru.svg"].map(|name| {
        let drawing = fs::read_to_string(repository().join("deploy/pictures").join(name)).expect("a drawing");
        let texts =
            drawing.lines().filter_map(|line| line.strip_prefix("<text class=\"code\"")?.split(['>', '<']).nth(1));
        texts.map(str::to_owned).collect::<Vec<_>>()
    });
    assert_eq!(drawn[0], drawn[1], "the drawing and its translation");
    assert_eq!(drawn[0].len(), 5, "one for each step");
    for status in drawn[0].iter().flat_map(|text| text.split(' ')) {
        assert!(known.contains(status), "{status} is drawn, and not in src/values/error.rs");
    }
}

/// The history of changes tells of the past, but where it leads is there.
fn documents_and_history() -> Vec<Document> {
    documents().into_iter().chain([Document::load("CHANGELOG.md")]).collect()
}

#[test]
fn every_relative_link_leads_to_a_file() {
    let mut count = 0;
    for document in documents_and_history() {
        for (line, target) in document.links() {
            let target = target.split('#').next().expect("split yields something");
            if target.is_empty() || target.contains("://") || target.starts_with("mailto:") {
                continue;
            }
            assert!(exists_beside(&document.name, target), "{} line {line}: there is no {target}", document.name);
            count += 1;
        }
    }
    assert!(count > 10, "only {count} links were found");
}

/// A heading's name in a link, as GitHub makes it.
fn anchor(heading: &str) -> String {
    let kept = heading.chars().filter(|c| c.is_alphanumeric() || " -_".contains(*c));
    kept.collect::<String>().to_lowercase().replace(' ', "-")
}

#[test]
fn every_link_to_a_heading_leads_to_one() {
    let mut count = 0;
    for document in documents_and_history() {
        for (line, target) in document.links() {
            let Some((file, wanted)) = target.split_once('#').filter(|(file, _)| !file.contains("://")) else {
                continue;
            };
            let beside = Path::new(&document.name).with_file_name(file);
            let name = if file.is_empty() { &document.name } else { beside.to_str().expect("UTF-8") };
            let text = Document::load(name).text();
            let mut headings =
                text.lines().filter(|line| line.starts_with('#')).map(|line| line.trim_matches(['#', ' ']));
            assert!(headings.any(|heading| anchor(heading) == wanted), "{} line {line}: {target}", document.name);
            count += 1;
        }
    }
    assert!(count > 5, "only {count} links were found");
}

#[test]
fn every_file_of_the_repository_that_a_text_names_exists() {
    let mut count = 0;
    for span in documents().iter().flat_map(|document| document.spans()) {
        let path = span.text.split(' ').next().expect("split yields something");
        if ["tests/", "deploy/", "src/"].iter().any(|folder| path.starts_with(folder)) {
            assert!(repository().join(path).exists(), "{}: there is no {path}", span.at());
            count += 1;
        }
    }
    assert!(count > 10, "only {count} files were found");
}

#[test]
fn every_folder_of_tests_is_in_the_table() {
    let rows = Document::load("tests/README.md").table(&["folder", "what it drives"]);
    let shown: BTreeSet<_> = rows.iter().flat_map(|row| code(&row.cells[0])).map(str::to_owned).collect();
    let folders = fs::read_dir(repository().join("tests")).expect("the tests").map(|entry| entry.expect("a folder"));
    // What is measured or used by others is no test.
    let names =
        folders.filter(|entry| entry.path().is_dir()).map(|folder| folder.file_name().into_string().expect("UTF-8"));
    let real: BTreeSet<_> = names.filter(|name| !["bench", "simulator", "support"].contains(&name.as_str())).collect();
    assert_eq!(shown, real, "tests/README.md, and the folders");
}

/// Every Rust source and script of the program and its tests but these, which name what must not exist.
fn sources() -> String {
    let mut text = String::new();
    let mut folders = vec![repository().join("src"), repository().join("tests")];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).expect("a folder of sources").map(|entry| entry.expect("an entry").path()) {
            let skipped = ["node_modules", "target", "documents"].iter().any(|name| entry.ends_with(name));
            if entry.is_dir() && !skipped {
                folders.push(entry);
            } else if entry.extension().is_some_and(|extension| extension == "rs" || extension == "sh") {
                text += &fs::read_to_string(entry).expect("a source in UTF-8");
            }
        }
    }
    text
}

#[test]
fn every_environment_variable_that_a_text_names_is_read_somewhere() {
    let sources = sources();
    let mut count = 0;
    for span in documents().iter().flat_map(|document| document.spans()) {
        for name in span.text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_') {
            if name.starts_with("B24PROXY_") {
                assert!(
                    sources.contains(&format!("{name}\"")) || sources.contains(&format!("{name}=")),
                    "{}: {name}",
                    span.at()
                );
                count += 1;
            }
        }
    }
    assert!(count > 5, "only {count} variables were found");
}

#[test]
fn every_test_that_proves_a_promise_exists() {
    let sources = sources();
    let names: Vec<&str> = sources.split("fn ").skip(1).filter_map(|rest| rest.split(['(', '<']).next()).collect();
    let mut count = 0;
    for row in Document::load("tests/README.md").table(&["promise", "tests"]) {
        for file in code(&row.cells[1]).into_iter().filter(|file| file.contains('/') && !file.starts_with("src/")) {
            let file = format!("tests/{file}.rs");
            assert!(repository().join(&file).exists(), "tests/README.md line {}: there is no {file}", row.line);
        }
        // What is not between backticks; "…" stands for the rest of a name, before or behind.
        for text in row.cells[1].split('`').step_by(2) {
            for name in text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_').filter(|name| name.contains('_')) {
                let exists = names.iter().any(|known| known.contains(name));
                assert!(exists, "tests/README.md line {}: no test is called {name}", row.line);
                count += 1;
            }
        }
    }
    assert!(count > 20, "only {count} tests were found");
}

/// Who wants to install it reads README.md, and all of it; what is for others stands in docs.
#[test]
fn the_readme_is_short_and_leads_to_every_page() {
    let text = fs::read_to_string(repository().join("README.md")).expect("README.md");
    let words = text.split_whitespace().count();
    assert!(words < 3700, "README.md has {words} words");
    let links: BTreeSet<String> = Document::load("README.md").links().into_iter().map(|(_, target)| target).collect();
    let pages = documents().into_iter().map(|document| document.name);
    for page in pages.filter(|name| name.starts_with("docs/") && !name.starts_with("docs/ru/")) {
        assert!(links.contains(&page), "README.md does not lead to {page}");
    }
}

/// A title, and one sentence that says for whom the page is.
#[test]
fn every_page_begins_with_its_title_and_whom_it_is_for() {
    for page in documents().into_iter().filter(|document| document.name.starts_with("docs/")) {
        let text = page.text();
        let lines: Vec<&str> = text.lines().take(4).collect();
        let [title, "", sentence, ..] = lines[..] else { panic!("{}: {lines:?}", page.name) };
        assert!(title.starts_with("# "), "{}: {title}", page.name);
        let is_for = sentence.starts_with("For ") || page.name.starts_with("docs/ru/");
        assert!(is_for && sentence.ends_with('.'), "{}: {sentence}", page.name);
        assert_eq!(text.lines().filter(|line| line.starts_with("# ")).count(), 1, "{}: one title", page.name);
    }
}
