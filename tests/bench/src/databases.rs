//! What a database in the place of the token folder adds to a call.

use crate::results::{median, Target};
use crate::{ms, resident, Bench, NGINX, PROXY};
use std::fmt::Write as _;
use std::time::Duration;
use support::database::{Database, Kind, Server};
use support::postgres::Pooler;
use support::Group;

/// How much more than with files a call may cost.
const MOST_BY_CGI: f64 = 6.0;
const MOST_RESIDENT: f64 = 0.5;
/// Of the resident programs: one caller is served by one of them.
const WORKERS: usize = 2;

/// Where what is stored is kept, and by which way.
struct Place {
    title: &'static str,
    config: String,
    /// `None`: the files, whose program runs already.
    resident: Option<(String, Group)>,
}

/// Milliseconds of calls by CGI, of those with a new idempotency key, and of a resident program's.
pub struct Databases {
    /// With files.
    files: [f64; 3],
    /// Of each place: its calls, and how much more than with files.
    others: Vec<(&'static str, [f64; 3], [f64; 3])>,
}

impl Bench {
    /// Differences within each of the interleaved rounds.
    pub fn databases(&self, rounds: usize, count: usize, duration: Duration) -> Databases {
        let servers = [Kind::Postgres, Kind::MySql]
            .map(|kind| Server::start_at_port(kind, Some((&self.certificate.0, &self.certificate.1))));
        let databases = servers.each_ref().map(|server| server.database());
        let pooler = Pooler::before(&servers[0]);
        let places = self.places(&databases, &pooler);
        let mut figures = vec![[const { Vec::new() }; 3]; places.len()];
        for round in 0..rounds {
            for (place, Place { title, config, resident }) in places.iter().enumerate() {
                let run = |key: Option<&str>| {
                    self.run_with(PROXY, "bench/body", count, key, Some(("B24PROXY_CONFIG", config))).wall
                };
                let [by_cgi, by_key, by_worker] = &mut figures[place];
                by_cgi.push(run(None));
                by_key.push(run(Some(&format!("{place} {round}"))));
                let path = resident.as_ref().map_or("/resident/b24proxy", |(path, _)| path);
                let request = self.request(NGINX, path);
                let answer = request.send().expect("an answer");
                assert!(answer.contains(r#""success":true"#), "{title}: {answer}");
                by_worker.push(ms(request.load(1, duration).median));
            }
        }
        let these = |place: usize| [0, 1, 2].map(|way| median(figures[place][way].iter().copied()));
        let more = |place: usize| {
            let [ours, with_files] = [place, 0].map(|place| &figures[place]);
            [0, 1, 2].map(|way| median(ours[way].iter().zip(&with_files[way]).map(|(one, other)| one - other)))
        };
        let others = places.iter().enumerate().skip(1);
        let others = others.map(|(number, place)| (place.title, these(number), more(number))).collect();
        Databases { files: these(0), others }
    }

    fn places(&self, databases: &[Database; 2], pooler: &Pooler) -> Vec<Place> {
        let [postgres, mysql] = databases;
        let tls = |database: &Database, mode| format!("{}?{mode}", database.url_at("localhost"));
        let kinds = [
            ("postgres-socket", "PostgreSQL, unix socket", postgres, postgres.url()),
            ("postgres-tls", "PostgreSQL, TLS", postgres, tls(postgres, "sslmode=verify-full")),
            ("pgbouncer", "PostgreSQL, pgbouncer on the node", postgres, pooler.url(postgres)),
            ("mysql-socket", "MariaDB, unix socket", mysql, mysql.url()),
            ("mysql-tls", "MariaDB, TLS", mysql, tls(mysql, "ssl-mode=verify_identity")),
        ];
        let configured = std::fs::read_to_string(self.sandbox.config()).expect("it was written");
        let pair = format!("{}.json", self.portal().replace(':', "_"));
        let stored = std::fs::read_to_string(self.sandbox.tokens().join(&pair)).expect("it was written");
        let files = Place { title: "files", config: self.sandbox.config().display().to_string(), resident: None };
        let of_kinds = kinds.map(|(name, title, database, url)| {
            database.keep(&pair, &stored);
            let section =
                format!("\n[storage]\ntype = \"{}\"\nurl = \"{url}\"\npath = \"{name}\"\n", database.type_name());
            let file = format!("b24proxy/{name}.toml");
            self.sandbox.write(&file, 0o600, format!("{configured}{section}").as_bytes());
            let config = self.sandbox.path().join(file).display().to_string();
            let program = self.sandbox.executable();
            let stays = resident(&self.sandbox, &program, name, WORKERS, Some(&config));
            Place { title, config, resident: Some((format!("/{name}/b24proxy"), stays)) }
        });
        std::iter::once(files).chain(of_kinds).collect()
    }
}

impl Databases {
    pub fn table(&self) -> String {
        let mut text = String::from(
            "| what is stored is kept in | CGI, ms | more than files | with a key | more | resident, ms | more |\n\
             |---|---:|---:|---:|---:|---:|---:|\n",
        );
        let [cgi, key, resident] = self.files;
        let _ = writeln!(text, "| files | {cgi:.2} | | {key:.2} | | {resident:.2} | |");
        for (title, these, more) in &self.others {
            let cells = these.iter().zip(more).map(|(this, more)| format!("| {this:.2} | {more:.2} "));
            let _ = writeln!(text, "| {title} {}|", cells.collect::<String>());
        }
        text.push('\n');
        text
    }

    pub fn targets(&self) -> impl Iterator<Item = Target> + '_ {
        self.others.iter().flat_map(|(title, _, [cgi, _, resident])| {
            [("by CGI", *cgi, MOST_BY_CGI), ("resident", *resident, MOST_RESIDENT)].map(|(way, value, most)| Target {
                what: format!("{title}, {way}: at most {most} ms more than with files"),
                value,
                reached: value <= most,
            })
        })
    }

    /// Lines of the one table in README.md.
    pub fn summary(&self) -> String {
        let line = |(title, _, [cgi, key, resident]): &(&str, _, [f64; 3])| {
            format!("| stored in {title}: CGI / with a key / resident | | | {cgi:+.2} / {key:+.2} / {resident:+.2} | | | |\n")
        };
        self.others.iter().map(line).collect()
    }
}
