//! placeholder
pub fn russian(why: &str) -> String {
    why.to_owned()
}
