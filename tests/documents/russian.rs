//! The Russian texts: nothing is left out of them that the English ones say by commands and tables, ё is written, and no
//! English is left in them.

use crate::blocks::is_russian;
use crate::markdown::{code, documents, Block, Document};
use crate::repository;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

/// The document that says the same in English.
fn original(name: &str) -> Option<String> {
    let english = if name == "README.ru.md" { "README.md".into() } else { name.replace("docs/ru/", "docs/") };
    (english != name && repository().join(&english).exists()).then_some(english)
}

/// Without comments, which are translated.
fn commands(block: &Block) -> Vec<&str> {
    block.text.lines().map(|line| line.split(" #").next().expect("split yields something").trim_end()).collect()
}

#[test]
fn every_page_of_docs_has_its_russian_twin() {
    let pages = |folder: &str| -> BTreeSet<String> {
        let entries = fs::read_dir(repository().join(folder)).expect("a folder of pages");
        let names = entries.map(|entry| entry.expect("a page").file_name().into_string().expect("UTF-8"));
        names.filter(|name| name.ends_with(".md")).collect()
    };
    let russian = pages("docs/ru");
    for page in pages("docs") {
        assert!(russian.contains(&page), "there is no docs/ru/{page}");
    }
    // How to leave a PHP script that only Russian programmers know.
    let more: Vec<_> = russian.difference(&pages("docs")).cloned().collect();
    assert_eq!(more, ["moving.md"]);
}

/// Whoever reads Russian alone types the same.
#[test]
fn every_command_of_an_english_document_is_in_the_russian_one() {
    let documents = documents();
    let mut count = 0;
    for russian in documents.iter().filter(|document| is_russian(&document.name)) {
        let Some(english) = original(&russian.name) else { continue };
        let english = documents.iter().find(|document| document.name == english).expect("it is there");
        for block in english.blocks.iter().filter(|block| ["sh", "nginx", "sql", "toml"].contains(&&*block.language)) {
            let there = russian.blocks.iter().any(|known| commands(known) == commands(block));
            assert!(there, "{} lacks the block of {}: {}", russian.name, block.at(), block.first_line());
            count += 1;
        }
    }
    assert!(count > 15, "only {count} blocks were found");
}

/// Each field, parameter, file, status word and command that an English page names.
#[test]
fn every_code_that_an_english_page_names_is_in_the_russian_one() {
    let named = |page: &Document| -> BTreeSet<String> {
        let plain = |text: &str| text.replace(' ', "").replace("ВАШ_ТОКЕН", "TOKEN").replace("ТОКЕН", "TOKEN");
        page.spans().iter().map(|span| plain(&span.text)).collect()
    };
    let documents = documents();
    for russian in documents.iter().filter(|document| document.name.starts_with("docs/ru/")) {
        let Some(english) = original(&russian.name) else { continue };
        let english = documents.iter().find(|document| document.name == english).expect("it is there");
        let forgotten: Vec<_> = named(english).difference(&named(russian)).cloned().collect();
        assert_eq!(forgotten, [""; 0], "{} does not say what {} does", russian.name, english.name);
    }
}

/// The code in the first cells of two tables, English and Russian, that list the same.
#[track_caller]
fn assert_lists_the_same(english: (&str, &[&str]), russian: (&str, &[&str])) {
    let listed = |(name, head): (&str, &[&str])| -> BTreeSet<String> {
        let rows = Document::load(name).table(head);
        rows.iter().flat_map(|row| code(&row.cells[0])).map(str::to_owned).collect()
    };
    assert_eq!(listed(english), listed(russian), "{} and {}", english.0, russian.0);
}

#[test]
fn the_tables_of_both_languages_list_the_same() {
    assert_lists_the_same(("README.md", &["command", "what it does"]), ("README.ru.md", &["команда", "что делает"]));
    assert_lists_the_same(("docs/calls.md", &["request", "answer"]), ("docs/ru/calls.md", &["запрос", "ответ"]));
}

/// Section and name of each parameter.
fn parameters_of_the_sample() -> BTreeSet<(String, String)> {
    let sample = fs::read_to_string(repository().join("proxy.toml.example")).expect("the sample");
    let mut section = String::new();
    let mut found = BTreeSet::new();
    for line in sample.lines().map(|line| line.trim_start_matches('#')) {
        if line.starts_with('[') {
            line.split('.').next().expect("split yields something").trim_matches(['[', ']']).clone_into(&mut section);
            continue;
        }
        let Some((name, _)) = line.split_once('=') else { continue };
        let name = name.trim_end();
        // A comment in words begins with a space.
        if !name.is_empty() && name.chars().all(|c| c.is_ascii_lowercase() || c == '_' || c.is_ascii_digit()) {
            found.insert((section.clone(), name.to_owned()));
        }
    }
    // As an alternative in a comment.
    found.insert(("security".into(), "token_sha256".into()));
    found
}

#[test]
fn every_parameter_of_the_sample_is_in_the_russian_table() {
    let mut shown = BTreeSet::new();
    for row in Document::load("README.ru.md").table(&["раздел", "параметр", "что значит"]) {
        let section = code(&row.cells[0])[0].trim_matches(['[', ']']).split('.').next().expect("a name").to_owned();
        shown.extend(code(&row.cells[1]).into_iter().map(|name| (section.clone(), name.to_owned())));
    }
    assert_eq!(shown, parameters_of_the_sample(), "README.ru.md, and proxy.toml.example");
}

/// Every text in Russian, by its name: documents, what is shipped, pages and messages of the program. Of a module for 1C
/// only comments and texts, for its own names are written without ё.
fn texts() -> BTreeMap<String, String> {
    let mut texts = BTreeMap::new();
    for name in ["README.ru.md", "docs/ru", "deploy", "src"] {
        gather(Path::new(name), &mut texts);
    }
    texts
}

fn gather(name: &Path, texts: &mut BTreeMap<String, String>) {
    let path = repository().join(name);
    if path.is_dir() {
        for entry in fs::read_dir(path).expect("a folder") {
            gather(&name.join(entry.expect("an entry").file_name()), texts);
        }
    } else if let Ok(mut text) = fs::read_to_string(path) {
        if name.extension().is_some_and(|extension| extension == "bsl") {
            text = text.lines().map(said).collect::<Vec<_>>().join("\n");
        }
        texts.insert(name.to_str().expect("UTF-8").to_owned(), text);
    }
}

/// A line of 1C without its code.
fn said(line: &str) -> String {
    if let Some((_, comment)) = line.split_once("//").filter(|(code, _)| !code.contains('"')) {
        return comment.to_owned();
    }
    line.split('"').skip(1).step_by(2).collect::<Vec<_>>().join(" ")
}

fn words(text: &str) -> impl Iterator<Item = String> + '_ {
    text.split(|c: char| !c.is_alphabetic()).filter(|word| !word.is_empty()).map(str::to_lowercase)
}

fn without(word: &str) -> String {
    word.replace('ё', "е")
}

/// Words that have no other form without ё; `*` stands for any ending, ён for ённый and its forms as well.
const WRITTEN: &str = "ещё её неё моё твоё своё чьё ничьё её причём днём путём объём* приём* подъём* \
    даёт* создаёт* задаёт* передаёт* отдаёт* выдаёт* раздаёт* узнаёт* остаётся удаётся придаёт признаёт отстаёт \
    придёт* найдёт* пойдёт подойдёт пройдёт* дойдёт войдёт зайдёт перейдёт обойдёт* уйдёт идёт* ведёт* приведёт \
    берёт* возьмёт* живёт ждёт* подождёт шлёт пришлёт пошлёт вернёт* начнёт* придётся несёт внесёт* перенесёт* поймёт \
    прочтёт сочтёт учтёт* назовёт* зовёт растёт ушёл пришёл прошёл дошёл нашёл вошёл перешёл шёл \
    учёт* отчёт* расчёт* счёт* счётчик* подсчёт* зачёт* четвёрт* трёх* четырёх* надёжн* чётк* чёрн* твёрд* серьёзн* \
    жёстк* тёмн* ёмк* партнёр* обёртк* развёрнут* завёрнут* свёрнут* одноимённ* \
    определён сохранён разрешён запрещён удалён заменён изменён отменён применён включён исключён отключён подключён \
    переключён обновлён подтверждён завершён прекращён сокращён перенесён введён переведён приведён учтён прочтён возвращён \
    перемещён размещён защищён отклонён решён освобождён распределён повторён создаётся";

/// What is written without ё all the same: a message of the platform, as it shows it, and a name in the module.
const QUOTED: &[&str] = &["«Удаленный узел не прошел проверку»", "Защищенное, Порт"];

/// Words with ё that are other words without it, and the letter alone.
const OTHERS: &[&str] = &["всё", "нём", "чём", "ё"];

/// Where «нем», «чем» and «все» are nothing but нём, чём and всё.
const PHRASES: &str =
    "о чем, в чем, на чем, при чем, о нем, в нем, на нем, при нем, все еще, все равно, все же, все это, \
    все остальное, все так, все хорошо, все работает";

/// What is written without ё in a text, though it has one.
fn forgotten(text: &str, known: &BTreeSet<String>) -> Vec<String> {
    let text = QUOTED.iter().fold(text.to_owned(), |text, quoted| text.replace(quoted, ""));
    let text = text.as_str();
    let patterns: Vec<String> = WRITTEN.split_whitespace().map(without).collect();
    let is_forgotten = |word: &String| {
        let listed = |pattern: &String| match pattern.strip_suffix('*') {
            Some(beginning) => word.starts_with(beginning),
            None => word.strip_prefix(pattern.as_str()).is_some_and(|ending| {
                // The name of a type of the platform is longer.
                ending.is_empty() || pattern.ends_with("ен") && ending.starts_with('н') && ending.chars().count() <= 4
            }),
        };
        known.contains(word) || patterns.iter().any(listed)
    };
    let mut found: Vec<String> = words(text).filter(is_forgotten).collect();
    let said = format!(" {} ", words(text).collect::<Vec<_>>().join(" "));
    found.extend(PHRASES.split(", ").filter(|phrase| said.contains(&format!(" {phrase} "))).map(str::to_owned));
    found
}

/// One spelling in all texts: a word that is written with ё once is written so everywhere, and the words that people often
/// write without are written with it.
#[test]
fn the_letter_yo_is_written_in_every_russian_text() {
    let texts = texts();
    let all = texts.values().flat_map(|text| words(text)).filter(|word| word.contains('ё'));
    let all = all.filter(|word| !OTHERS.contains(&word.as_str()));
    let known: BTreeSet<String> = all.map(|word| without(&word)).collect();
    assert!(known.len() > 60, "only {known:?}");
    for (name, text) in &texts {
        let found = forgotten(text, &known);
        assert!(found.is_empty(), "{name}: ё is missing in {found:?}");
    }
    // The test itself: each of these is seen, and none of those.
    for wrong in ["Еще раз", "передает", "Удаленный узел", "все равно", "о чем", "надежнее", "учетная"]
    {
        assert!(!forgotten(wrong, &known).is_empty(), "{wrong}");
    }
    for right in ["найден", "все вызовы", "раньше, чем", "«Удаленный узел не прошел проверку»"]
    {
        assert!(forgotten(right, &known).is_empty(), "{right}");
    }
}

/// What follows each other in Latin letters, outside of code, addresses and punctuation.
fn english(document: &Document) -> Vec<String> {
    let mut found = Vec::new();
    let text = document.text();
    let mut parts = text.split("](");
    let mut shown = parts.next().expect("split yields something").to_owned();
    for part in parts {
        // The target of a link is no text.
        shown += part.split_once(')').map_or(part, |(_, rest)| rest);
    }
    for prose in shown.split('`').step_by(2) {
        for part in prose.split(|c: char| ".,:;!?()[]|*#«»—".contains(c)) {
            let words: Vec<&str> = part.split_whitespace().collect();
            let is_latin = |word: &&str| word.chars().any(|c| c.is_ascii_alphabetic());
            let runs = words.split(|word| !is_latin(word));
            found.extend(runs.filter(|run| run.len() > 3).map(|run| run.join(" ")));
        }
    }
    found
}

#[test]
fn no_english_sentence_is_left_in_a_russian_document() {
    for document in
        documents().iter().filter(|document| is_russian(&document.name) || document.name.ends_with(".ru.md"))
    {
        assert_eq!(english(document), [""; 0], "{}", document.name);
    }
    let seen = |text: &str| english(&Document::parse("some.ru.md", text)).len();
    assert_eq!(seen("Если портал отвечает: the token is spent, начните заново."), 1);
    assert_eq!(seen("Код `the token is spent`, [Apache](a b c d e), Apache, nginx, lighttpd и uWSGI."), 0);
}
