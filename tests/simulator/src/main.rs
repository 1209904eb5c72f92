//! The simulator as a program.

#![forbid(unsafe_code)]

use std::io::{self, Read, Write};
use std::process::ExitCode;

use simulator::{KeyPair, Options, Simulator, CONTROL_HELP};

const USAGE: &str = "Usage: simulator [OPTIONS]

Runs a Bitrix24 to test against on 127.0.0.1, prints its addresses as one line of JSON when it is
ready, and goes on until it is killed.

  --http                     plain http instead of https
  --oauth-port N             ports; free ones by default
  --portal-port N
  --control-port N
  --host NAME                127.0.0.1 (default) or localhost: the first half of the portal's name
  --scope LIST               what the application is granted (crm,catalog,sale,task,user)
  --strips-authorization     a web server in front of the portal swallows the header
  --strict-rest3-batch       a REST 3.0 batch carries nothing but commands, as with Bitrix24
  --client-id ID             the application's key pair; random by default
  --client-secret SECRET
  --redirect-uri URL         the application's redirect address
  --handler URL              the application's address for the frame at /marketplace/app/
  --ask                      the authorization page asks who logs in, instead of redirecting at once
  --ca-file PATH             write the certificate authority there (PEM)
  --print-json               accepted; the addresses are always printed so
  --until-stdin-closes       end when standard input is closed
";

struct Arguments {
    options: Options,
    ca_file: Option<String>,
    until_stdin_closes: bool,
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if arguments.iter().any(|a| a == "--help" || a == "-h") {
        print!("{USAGE}\n{CONTROL_HELP}");
        return ExitCode::SUCCESS;
    }
    let parsed = match parse(arguments.into_iter()) {
        Ok(parsed) => parsed,
        Err(problem) => {
            eprintln!("simulator: {problem}\n\n{USAGE}");
            return ExitCode::from(2);
        }
    };
    match run(parsed) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("simulator: {error}");
            ExitCode::FAILURE
        }
    }
}

fn parse(mut arguments: impl Iterator<Item = String>) -> Result<Arguments, String> {
    let mut options = Options::default();
    let (mut client_id, mut client_secret) = (None, None);
    let mut ca_file = None;
    let mut until_stdin_closes = false;
    while let Some(name) = arguments.next() {
        let mut value = || arguments.next().ok_or_else(|| format!("{name} needs a value"));
        let port = |text: String| text.parse::<u16>().map_err(|_| format!("{text} is not a port"));
        match name.as_str() {
            "--strict-rest3-batch" => options.portal.lenient_rest3_batch = false,
            "--strips-authorization" => options.portal.strips_authorization = true,
            "--http" => options.https = false,
            "--oauth-port" => options.oauth_port = port(value()?)?,
            "--portal-port" => options.portal.port = port(value()?)?,
            "--control-port" => options.control_port = port(value()?)?,
            "--host" => options.portal.host = value()?,
            "--scope" => options.portal.scope = Some(value()?),
            "--client-id" => client_id = Some(value()?),
            "--client-secret" => client_secret = Some(value()?),
            "--redirect-uri" => options.redirect_uri = Some(value()?),
            "--handler" => options.handler_url = Some(value()?),
            "--ask" => options.auto_agree = false,
            "--ca-file" => ca_file = Some(value()?),
            "--print-json" => {}
            "--until-stdin-closes" => until_stdin_closes = true,
            other => return Err(format!("unknown option {other}")),
        }
    }
    options.key_pair = match (client_id, client_secret) {
        (Some(client_id), Some(client_secret)) => Some(KeyPair { client_id, client_secret }),
        (None, None) => None,
        _ => return Err("--client-id and --client-secret go together".to_owned()),
    };
    Ok(Arguments { options, ca_file, until_stdin_closes })
}

fn run(arguments: Arguments) -> io::Result<()> {
    let simulator = Simulator::try_start(arguments.options)?;
    if let Some(path) = &arguments.ca_file {
        std::fs::write(path, simulator.ca_pem())?;
    }
    println!("{}", simulator.addresses_json());
    io::stdout().flush()?;
    if arguments.until_stdin_closes {
        io::stdin().read_to_end(&mut Vec::new())?;
        return Ok(());
    }
    loop {
        std::thread::park();
    }
}
