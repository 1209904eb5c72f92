//! What a database in the place of the token folder adds to a call.

use crate::results::{median, reached};
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

impl Bench {
    /// Differences within each of the interleaved rounds.
    pub fn databases(&self, rounds: usize, count: usize, duration: Duration) -> String {
        let servers = [Kind::Postgres, Kind::MySql]
            .map(|kind| Server::start_at_port(kind, Some((&self.certificate.0, &self.certificate.1))));
        let databases = servers.each_ref().map(|server| server.database());
        let pooler = Pooler::before(&servers[0]);
        let places = self.places(&databases, &pooler);
        let mut by_cgi = vec![Vec::new(); places.len()];
        let mut by_key = by_cgi.clone();
        let mut by_worker = by_cgi.clone();
        for round in 0..rounds {
            for (place, Place { title, config, resident }) in places.iter().enumerate() {
                let run = |key: Option<&str>| self.run_with(PROXY, "bench/body", count, key, Some(config)).wall;
                by_cgi[place].push(run(None));
                by_key[place].push(run(Some(&format!("{place} {round}"))));
                let path = resident.as_ref().map_or("/resident/b24proxy", |(path, _)| path);
                let request = self.request(NGINX, path);
                let answer = request.send().expect("an answer");
                assert!(answer.contains(r#""success":true"#), "{title}: {answer}");
                by_worker[place].push(ms(request.load(1, duration).median));
            }
        }
        let more = |figures: &[Vec<f64>], place: usize| {
            median(figures[place].iter().zip(&figures[0]).map(|(figure, with_files)| figure - with_files))
        };
        let mut text = String::from(
            "| what is stored is kept in | CGI, ms | more than files | with a key | more | resident, ms | more |\n\
             |---|---:|---:|---:|---:|---:|---:|\n",
        );
        let mut verdicts = String::new();
        for (place, Place { title, .. }) in places.iter().enumerate() {
            let _ = write!(text, "| {title} ");
            for figures in [&by_cgi, &by_key, &by_worker] {
                let _ = write!(text, "| {:.2} | {:.2} ", median(figures[place].iter().copied()), more(figures, place));
            }
            text.push_str("|\n");
            if place > 0 {
                let (cgi, worker) = (more(&by_cgi, place), more(&by_worker, place));
                let _ = writeln!(
                    verdicts,
                    "- {title}: at most {MOST_BY_CGI} ms more by CGI: {}; at most {MOST_RESIDENT} ms more resident: {}",
                    reached(cgi <= MOST_BY_CGI),
                    reached(worker <= MOST_RESIDENT)
                );
            }
        }
        format!("{text}\n{verdicts}\n")
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
