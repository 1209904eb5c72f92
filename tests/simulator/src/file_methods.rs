//! REST methods that answer addresses of files.

use base64::engine::general_purpose::STANDARD as BASE64;
use base64::Engine;

use crate::addresses::Signer;
use crate::clock;
use crate::files::{Content, File};
use crate::methods::{fail, Caller, Failure, Outcome};
use crate::php::{Array, Php};
use crate::state::PortalState;

pub(crate) const METHODS: &[(&str, &str)] = &[
    ("crm.documentgenerator.document.get", "crm"),
    ("disk.file.get", "disk"),
    ("disk.folder.uploadfile", "disk"),
    ("documentgenerator.document.get", "documentgenerator"),
];

/// A document of the document generator: a file, and what it was made into.
#[derive(Clone)]
pub(crate) struct Document {
    pub(crate) title: String,
    pub(crate) file: i64,
    pub(crate) pdf: Option<i64>,
    pub(crate) image: Option<i64>,
}

pub(crate) fn run(portal: &mut PortalState, caller: &Caller, method: &str, params: &Array, now: f64) -> Outcome {
    let signer = Signer::of(portal, caller);
    let id = params.get_any_case("id").and_then(Php::to_int).unwrap_or(0);
    match method {
        "disk.file.get" => {
            let file = portal.files.get(&id).ok_or_else(|| not_found(id))?;
            Ok(described(&signer, id, file, now).into())
        }
        "disk.folder.uploadfile" => match params.get_any_case("fileContent") {
            None => {
                let query = [("id", id.to_string()), ("generateUniqueName", "0".to_owned())];
                let address = signer.address("disk", "upload", &query);
                Ok(Php::Array(Array::new().with("field", UPLOAD_FIELD).with("uploadUrl", address)).into())
            }
            Some(content) => {
                let file = File::new(&name_in(params), sent_in(content)?);
                let id = portal.store_file(file.clone());
                Ok(described(&signer, id, &file, now).into())
            }
        },
        method => {
            let document = portal.documents.get(&id).ok_or_else(|| not_found(id))?;
            let methods = if method.starts_with("crm.") { CRM_DOCUMENT } else { DOCUMENT };
            Ok(document_answer(&signer, id, document, methods, now).into())
        }
    }
}

/// The name of an upload's part with the file.
pub(crate) const UPLOAD_FIELD: &str = "file";

fn not_found(id: i64) -> Failure {
    fail(400, "ERROR_NOT_FOUND", &format!("Could not find entity with id `{id}`."))
}

pub(crate) fn described(signer: &Signer, id: i64, file: &File, now: f64) -> Php {
    let time = clock::iso(now);
    Array::new()
        .with("ID", id.to_string())
        .with("NAME", file.name.as_str())
        .with("CODE", Php::Null)
        .with("STORAGE_ID", "1")
        .with("TYPE", "file")
        .with("PARENT_ID", "8")
        .with("DELETED_TYPE", "0")
        .with("GLOBAL_CONTENT_VERSION", "1")
        .with("FILE_ID", (id + 1000).to_string())
        .with("SIZE", file.content.size().to_string())
        .with("CREATE_TIME", time.as_str())
        .with("UPDATE_TIME", time)
        .with("DOWNLOAD_URL", signer.address("disk", "download", &[("id", id.to_string())]))
        .into()
}

fn name_in(params: &Array) -> String {
    let data = params.get_any_case("data").and_then(Php::as_array);
    data.and_then(|data| data.get_any_case("NAME")).map(Php::to_text).unwrap_or_default()
}

/// `["name", "base64"]`, or the base64 alone.
fn sent_in(content: &Php) -> Result<Content, Failure> {
    let text = match content {
        Php::Array(parts) => parts.get("1").map(Php::to_text),
        content => Some(content.to_text()),
    };
    let bytes = text.and_then(|text| BASE64.decode(text).ok());
    bytes.map(Content::given).ok_or_else(|| fail(400, "ERROR_ARGUMENT", "Invalid value of parameter {fileContent}"))
}

/// Scope, and the methods for the document, its PDF and its image.
type DocumentMethods = (&'static str, [&'static str; 3]);

const DOCUMENT: DocumentMethods = (
    "documentgenerator",
    [
        "documentgenerator.api.document.getfile",
        "documentgenerator.api.document.getpdf",
        "documentgenerator.api.document.getimage",
    ],
);
const CRM_DOCUMENT: DocumentMethods = (
    "crm",
    [
        "crm.documentgenerator.document.download",
        "crm.documentgenerator.document.getPdf",
        "crm.documentgenerator.document.getImage",
    ],
);

fn document_answer(signer: &Signer, id: i64, document: &Document, methods: DocumentMethods, now: f64) -> Php {
    let (scope, [file, pdf, image]) = methods;
    let mut answer = Array::new().with("id", id.to_string()).with("title", document.title.as_str()).with("number", "1");
    let parts = [("download", file, Some(document.file)), ("pdf", pdf, document.pdf), ("image", image, document.image)];
    for (name, method, stored) in parts {
        let query = [
            ("action", method.to_owned()),
            ("SITE_ID", "s1".to_owned()),
            ("id", id.to_string()),
            ("ts", (now as i64).to_string()),
        ];
        let (page, machine) = match stored {
            Some(_) => {
                let page = format!("/bitrix/services/main/ajax.php?{}", crate::params::encode_pairs(&query));
                (Php::Str(page), Php::Str(signer.address(scope, method, &query)))
            }
            None => (Php::Null, Php::Null),
        };
        answer.put(&format!("{name}Url"), page);
        answer.put(&format!("{name}UrlMachine"), machine);
    }
    Array::new().with("document", answer).into()
}
