//! Image references, compared by what they mean and not by how they are written.

use oci_spec::distribution::Reference;
use std::fmt;

/// Longest reference that is read; the OCI distribution grammar allows 255 for the name alone.
pub const MAX_LEN: usize = 1024;

/// A parsed image reference: registry and repository with defaults filled in, tag and digest.
///
/// Grammar and defaults are those of the distribution reference (`nginx` is
/// `docker.io/library/nginx:latest`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Image(Reference);

/// Why a string is not an image reference.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ImageError {
    /// Longer than [`MAX_LEN`] bytes.
    #[error("image reference is longer than {MAX_LEN} bytes")]
    TooLong,
    /// Not of the form `[registry/]repository[:tag][@digest]`.
    #[error("`{0}` is not an image reference ([registry/]repository[:tag][@digest]): {1}")]
    Malformed(String, String),
}

impl Image {
    /// Reads a reference.
    pub fn parse(text: &str) -> Result<Self, ImageError> {
        if text.len() > MAX_LEN {
            return Err(ImageError::TooLong);
        }
        Reference::try_from(text)
            .map(Self)
            .map_err(|e| ImageError::Malformed(text.to_owned(), e.to_string()))
    }

    /// Registry and repository, without tag and digest.
    pub fn repository(&self) -> String {
        format!("{}/{}", self.0.resolve_registry(), self.0.repository())
    }

    /// The tag, where one is written or implied.
    pub fn tag(&self) -> Option<&str> {
        self.0.tag()
    }

    /// The digest, where one is written.
    pub fn digest(&self) -> Option<&str> {
        self.0.digest()
    }

    /// What a person would call its version: the tag, else the start of the digest.
    pub fn version(&self) -> String {
        match (self.0.tag(), self.0.digest()) {
            (Some(tag), _) => tag.to_owned(),
            (None, Some(digest)) => digest.chars().take(19).collect(),
            (None, None) => "latest".to_owned(),
        }
    }
}

impl fmt::Display for Image {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Whether two references name the same image.
///
/// Equal text always does. Otherwise both must parse and agree after defaults are filled in;
/// what does not parse equals nothing else.
pub fn same(a: &str, b: &str) -> bool {
    a == b || matches!((Image::parse(a), Image::parse(b)), (Ok(a), Ok(b)) if a == b)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn defaults_are_filled_in_before_comparing() {
        assert!(same("nginx", "docker.io/library/nginx:latest"));
        assert!(same("nginx:1.27", "docker.io/library/nginx:1.27"));
        assert!(!same("nginx:1.27", "nginx:1.28"));
        assert!(!same("nginx:1.27", "quay.io/nginx:1.27"));
    }

    #[test]
    fn a_digest_is_part_of_the_image() {
        let digest = format!("nginx:1@sha256:{}", "a".repeat(64));
        assert!(!same("nginx:1", &digest));
        let image = Image::parse(&digest).expect("valid");
        assert_eq!((image.tag(), image.version()), (Some("1"), "1".to_owned()));
    }

    #[test]
    fn what_does_not_parse_equals_only_itself() {
        assert!(same("UPPER case", "UPPER case"));
        assert!(!same("UPPER case", "upper case"));
        assert!(matches!(Image::parse(&"a".repeat(2000)), Err(ImageError::TooLong)));
        assert!(matches!(Image::parse("a b"), Err(ImageError::Malformed(..))));
    }
}
