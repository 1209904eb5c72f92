//! `deploy/1c/extension`: the module as an extension that the Configurator loads from files.
//!
//! The facts are those of the format's schema (`v8.1c.ru-8.3-MDClasses.xsd` of format 2.10, that of platform 8.3.17; newer
//! ones load it too): which properties there are, which values they take, and the order in which platforms write them.

use crate::bsl::{folder, Module};
use crate::language::MODULE;
use std::collections::BTreeSet;
use std::fs;

/// Of `CommonModuleProperties`, without those that an object of one's own does not have, and with their values.
const OF_A_MODULE: &[(&str, &[&str])] = &[
    ("Name", &[MODULE]),
    ("Synonym", &[]),
    ("Comment", &[]),
    ("Global", &["false"]),
    ("ClientManagedApplication", &["false"]),
    ("Server", &["true"]),
    ("ExternalConnection", &["true"]),
    ("ClientOrdinaryApplication", &["false"]),
    ("ServerCall", &["false"]),
    ("Privileged", &["false"]),
    ("ReturnValuesReuse", &["DontUse"]),
];

/// Of `ConfigurationProperties`: what an extension has that changes nothing of the configuration. Default roles and the
/// like may be left out, and must be where the configuration is in the mode of 8.3.13 or older.
const OF_AN_EXTENSION: &[(&str, &[&str])] = &[
    ("ObjectBelonging", &["Adopted"]),
    ("Name", &[]),
    ("Synonym", &[]),
    ("Comment", &[]),
    ("ConfigurationExtensionPurpose", &["Patch", "Customization", "AddOn"]),
    ("KeepMappingToExtendedConfigurationObjectsByIDs", &["true"]),
    ("NamePrefix", &[]),
    ("ConfigurationExtensionCompatibilityMode", &["Version8_3_10"]),
    ("ScriptVariant", &["Russian"]),
    ("Vendor", &[]),
    ("Version", &[env!("CARGO_PKG_VERSION")]),
    ("BriefInformation", &[]),
    ("DetailedInformation", &[]),
    ("Copyright", &[]),
    ("VendorInformationAddress", &[]),
    ("ConfigurationInformationAddress", &[]),
];

/// The parts of an extension that each has, by their classes.
const CLASSES: [&str; 7] = [
    "9cd510cd-abfc-11d4-9434-004095e12fc7",
    "9fcd25a0-4822-11d4-9414-008048da11f9",
    "e3687481-0a87-462c-a166-9f34594f9bba",
    "9de14907-ec23-4a07-96f0-85521cb6b53b",
    "51f2d5d8-ea4d-4064-8892-82951750031e",
    "e68182ea-4237-4383-967f-90c1e3370bc7",
    "fb282519-d103-4dd3-bc12-cb271d631dfc",
];

/// An element: its name, its attributes as they stand, its text, what is in it.
#[derive(Debug)]
struct Element {
    name: String,
    attributes: String,
    text: String,
    inner: Vec<Element>,
}

impl Element {
    /// The one element of a file.
    fn load(name: &str) -> Element {
        let text = fs::read_to_string(folder().join("extension").join(name)).expect("UTF-8");
        let text = text.strip_prefix("<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n").expect("XML");
        let mut open = vec![Element::named("")];
        for part in text.split('<').skip(1) {
            let (tag, after) = part.split_once('>').expect("a tag ends");
            if let Some(name) = tag.strip_prefix('/') {
                let element = open.pop().expect("something is open");
                assert_eq!(element.name, name);
                open.last_mut().expect("the file").inner.push(element);
                continue;
            }
            let (tag, is_empty) = tag.strip_suffix('/').map_or((tag, false), |tag| (tag, true));
            let (name, attributes) = tag.split_once(' ').unwrap_or((tag, ""));
            let element =
                Element { attributes: attributes.to_owned(), text: after.trim().to_owned(), ..Element::named(name) };
            match is_empty {
                true => open.last_mut().expect("the file").inner.push(element),
                false => open.push(element),
            }
        }
        assert_eq!(open.len(), 1, "all is closed");
        open.remove(0).inner.remove(0)
    }

    fn named(name: &str) -> Element {
        Element { name: name.to_owned(), attributes: String::new(), text: String::new(), inner: Vec::new() }
    }

    fn at(&self, name: &str) -> &Element {
        self.inner.iter().find(|element| element.name == name).unwrap_or_else(|| panic!("no {name} in {}", self.name))
    }

    fn uuid(&self) -> &str {
        self.attributes.strip_prefix("uuid=\"").and_then(|text| text.strip_suffix('"')).expect("an identifier")
    }
}

fn assert_properties(object: &Element, known: &[(&str, &[&str])]) {
    let properties = object.at("Properties");
    let names: Vec<_> = properties.inner.iter().map(|property| property.name.as_str()).collect();
    assert_eq!(names, known.iter().map(|(name, _)| *name).collect::<Vec<_>>(), "these, in this order");
    for (property, (_, values)) in properties.inner.iter().zip(known) {
        assert!(values.is_empty() || values.contains(&property.text.as_str()), "{property:?}");
        if property.name == "Synonym" {
            let item = property.at("v8:item");
            assert_eq!(item.at("v8:lang").text, "ru");
            assert!(!item.at("v8:content").text.is_empty());
        }
    }
}

#[test]
fn the_extension_is_one_that_the_formats_schema_knows() {
    let whole = Element::load("Configuration.xml");
    let module = Element::load("CommonModules/Битрикс24Прокси.xml");
    for file in [&whole, &module] {
        assert_eq!((file.name.as_str(), file.inner.len()), ("MetaDataObject", 1));
        assert!(file.attributes.contains("xmlns=\"http://v8.1c.ru/8.3/MDClasses\""));
        assert!(file.attributes.ends_with("version=\"2.10\""), "of 8.3.17: newer platforms load it, older ones do not");
    }
    let (extension, module) = (whole.at("Configuration"), module.at("CommonModule"));
    assert_properties(extension, OF_AN_EXTENSION);
    assert_properties(module, OF_A_MODULE);
    let prefix = &extension.at("Properties").at("NamePrefix").text;
    assert!(MODULE.starts_with(prefix.as_str()), "what an extension adds begins with its prefix");
    let children = &extension.at("ChildObjects").inner;
    assert_eq!((children.len(), children[0].name.as_str(), children[0].text.as_str()), (1, "CommonModule", MODULE));

    let parts = &extension.at("InternalInfo").inner;
    let classes: Vec<_> = parts.iter().map(|part| part.at("xr:ClassId").text.as_str()).collect();
    assert_eq!(classes, CLASSES);
    let mut ids: Vec<_> = parts.iter().map(|part| part.at("xr:ObjectId").text.as_str()).collect();
    ids.extend([extension.uuid(), module.uuid()]);
    let hex = |id: &&str| {
        id.split('-').map(str::len).eq([8, 4, 4, 4, 12]) && id.bytes().all(|b| b == b'-' || b.is_ascii_hexdigit())
    };
    assert!(ids.iter().all(hex), "{ids:?}");
    assert_eq!(ids.iter().collect::<BTreeSet<_>>().len(), ids.len());
}

#[test]
fn the_extension_has_the_modules_text_with_the_mark_that_the_configurator_writes() {
    let text = fs::read(folder().join("extension/CommonModules/Битрикс24Прокси/Ext/Module.bsl")).expect("the module");
    let expected = format!("\u{feff}{}", Module::load().text);
    let here = "(printf '\\357\\273\\277'; cat deploy/1c/b24proxy.bsl) > deploy/1c/extension/CommonModules/Битрикс24Прокси/Ext/Module.bsl";
    assert!(text == expected.as_bytes(), "not the text of b24proxy.bsl; to write it anew: {here}");
}
