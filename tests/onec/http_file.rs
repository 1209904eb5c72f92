//! `deploy/1c/requests/*.http`: requests as they go over the wire.

use crate::bsl::folder;
use serde_json::Value;
use std::fs;
use support::http::Answer;
use support::webserver::WebServer;

#[derive(Clone)]
pub struct HttpFile {
    pub name: String,
    pub method: String,
    /// `{{path}}` is the program's address.
    pub target: String,
    pub headers: Vec<(String, String)>,
    pub body: String,
}

/// Those that the module sends, by name.
pub fn of_the_module() -> Vec<HttpFile> {
    all().into_iter().filter(|file| file.target == "{{path}}").collect()
}

/// All of them, by name.
pub fn all() -> Vec<HttpFile> {
    let mut files: Vec<_> = fs::read_dir(folder().join("requests"))
        .expect("the folder of requests")
        .map(|entry| entry.expect("a folder that can be read").path())
        .map(|path| {
            let name = path.file_name().expect("a file").to_str().expect("an ASCII name").to_owned();
            HttpFile::parse(&name, &fs::read_to_string(&path).expect("UTF-8"))
        })
        .collect();
    files.sort_by(|a, b| a.name.cmp(&b.name));
    files
}

pub fn load(name: &str) -> HttpFile {
    all().into_iter().find(|file| file.name == name).unwrap_or_else(|| panic!("there is no {name}"))
}

impl HttpFile {
    fn parse(name: &str, text: &str) -> HttpFile {
        let mut lines = text.lines().skip_while(|line| line.starts_with('#') || line.is_empty());
        let line: Vec<_> = lines.next().unwrap_or_default().split(' ').collect();
        let [method, target, "HTTP/1.1"] = line[..] else { panic!("{name}: not a request: {line:?}") };
        assert!(target.starts_with("{{path}}"), "{name}");
        let headers = lines.by_ref().take_while(|line| !line.is_empty()).map(|line| {
            let (name, value) = line.split_once(": ").unwrap_or_else(|| panic!("not a header: {line}"));
            (name.to_owned(), value.to_owned())
        });
        let headers = headers.collect();
        let body: Vec<_> = lines.collect();
        let is_of_the_module = target == "{{path}}";
        assert!(!is_of_the_module || body.len() == 1, "{name}: the module writes JSON without line breaks");
        // Between parts a line ends as RFC 2046 has it.
        let body = if is_of_the_module { body[0].to_owned() } else { body.iter().flat_map(|l| [*l, "\r\n"]).collect() };
        HttpFile { name: name.to_owned(), method: method.to_owned(), target: target.to_owned(), headers, body }
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(n, _)| n == name).map(|(_, value)| value.as_str())
    }

    pub fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{}: {error}", self.name))
    }

    /// The keys of the body, in the order in which they stand.
    pub fn keys(&self) -> Vec<String> {
        let mut keys: Vec<_> = self.json().as_object().expect("an object").keys().cloned().collect();
        keys.sort_by_key(|key| self.body.find(&format!("\"{key}\":")));
        keys
    }

    /// With `{{name}}` filled in.
    pub fn with(mut self, name: &str, value: &str) -> HttpFile {
        let name = format!("{{{{{name}}}}}");
        self.body = self.body.replace(&name, value);
        self.target = self.target.replace(&name, value);
        self.headers.iter_mut().for_each(|(_, text)| *text = text.replace(&name, value));
        self
    }

    pub fn request(&self, server: &WebServer) -> support::http::Request {
        assert!(!self.body.contains("{{"), "{}: {}", self.name, self.body);
        let target = self.target.replace("{{path}}", "/cgi-bin/b24proxy");
        assert!(!target.contains("{{"), "{}: {target}", self.name);
        let request = server.request(&self.method, &target);
        let request = self.headers.iter().fold(request, |request, (name, value)| request.header(name, value));
        request.body(self.body.as_bytes())
    }

    pub fn send(&self, server: &WebServer) -> Answer {
        self.request(server).send()
    }
}
