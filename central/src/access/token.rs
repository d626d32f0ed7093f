//! A bearer token as it comes: taken from a request, told from garbage, and what it says of itself.
//!
//! What a token says of itself is not believed before the API server has checked it; it only serves to refuse without asking, and to know how
//! long an answer may be kept. A token is kept nowhere: what is remembered of it is its SHA-256.

use base64ct::{Base64UrlUnpadded, Encoding as _};
use http::{HeaderMap, header::AUTHORIZATION};
use ring::digest::{SHA256, digest};
use serde_json::Value;

use super::Refusal;

/// Longer ones are not looked at. Those of service accounts have 1 to 2 KiB, those of identity providers rarely more than 6.
pub(super) const MAX_TOKEN_BYTES: usize = 8 << 10;

/// SHA-256 of a token.
pub(super) type Hash = [u8; 32];

/// A token with its hash.
#[derive(Clone)]
pub(super) struct Bearer {
    pub(super) text: String,
    pub(super) hash: Hash,
}

/// What a JSON Web Token says of itself, unchecked.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Claims {
    /// When it ends, Unix time in seconds.
    pub(super) ends_wall_secs: Option<i64>,
    /// For whom it was made.
    pub(super) audiences: Vec<String>,
}

impl Bearer {
    pub(super) fn new(text: &str) -> Self {
        let mut hash = Hash::default();
        hash.copy_from_slice(digest(&SHA256, text.as_bytes()).as_ref());
        Self { text: text.to_owned(), hash }
    }

    /// The token of a request; `None` if it has none.
    ///
    /// # Errors
    /// [`Refusal::Malformed`] for what is no bearer token (RFC 6750, 2.1).
    pub(super) fn of(headers: &HeaderMap) -> Result<Option<Self>, Refusal> {
        let mut given = headers.get_all(AUTHORIZATION).iter();
        let Some(value) = given.next() else { return Ok(None) };
        let bad = |why: &str| Refusal::Malformed(format!("authorization: {why}"));
        if given.next().is_some() {
            return Err(bad("more than one"));
        }
        let text = value.to_str().map_err(|_| bad("no text"))?;
        let token = match text.split_once(' ') {
            Some((scheme, token)) if scheme.eq_ignore_ascii_case("bearer") => token.trim(),
            _ => return Err(bad("no bearer token")),
        };
        if token.len() > MAX_TOKEN_BYTES {
            return Err(bad(&format!("a token of more than {MAX_TOKEN_BYTES} bytes")));
        }
        let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~+/=".contains(&byte);
        if token.is_empty() || !token.bytes().all(is_plain) {
            return Err(bad("no bearer token"));
        }
        Ok(Some(Self::new(token)))
    }

    /// `None` if it is no JSON Web Token.
    pub(super) fn claims(&self) -> Option<Claims> {
        let mut parts = self.text.split('.');
        let (_, payload, _) = (parts.next()?, parts.next()?, parts.next()?);
        if parts.next().is_some() {
            return None;
        }
        let payload: Value = serde_json::from_slice(&Base64UrlUnpadded::decode_vec(payload).ok()?).ok()?;
        let payload = payload.as_object()?;
        let audiences = match payload.get("aud") {
            Some(Value::String(one)) => vec![one.clone()],
            Some(Value::Array(several)) => several.iter().filter_map(|one| one.as_str().map(str::to_owned)).collect(),
            _ => Vec::new(),
        };
        Some(Claims { ends_wall_secs: payload.get("exp").and_then(Value::as_i64), audiences })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn token(payload: &Value) -> String {
        format!("e30.{}.c2ln", Base64UrlUnpadded::encode_string(payload.to_string().as_bytes()))
    }

    #[track_caller]
    fn check(values: &[&str], want: Result<Option<&str>, &str>) {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(AUTHORIZATION, value.parse().unwrap());
        }
        let found = Bearer::of(&headers).map(|bearer| bearer.map(|bearer| bearer.text));
        let found = found.map_err(|refusal| refusal.to_string());
        assert_eq!(found, want.map(|text| text.map(str::to_owned)).map_err(str::to_owned), "{values:?}");
    }

    #[test]
    fn a_token_is_told_from_garbage() {
        check(&[], Ok(None));
        check(&["Bearer a.b-c_d~e+f/g=="], Ok(Some("a.b-c_d~e+f/g==")));
        check(&["bearer a"], Ok(Some("a")));
        check(&["Basic dTpw"], Err("authorization: no bearer token"));
        check(&["Bearer"], Err("authorization: no bearer token"));
        check(&["Bearer  "], Err("authorization: no bearer token"));
        check(&["Bearer a b"], Err("authorization: no bearer token"));
        check(&["Bearer a", "Bearer b"], Err("authorization: more than one"));
        let long = format!("Bearer {}", "a".repeat(MAX_TOKEN_BYTES));
        check(&[&long], Ok(Some(&long[7..])));
        check(&[&format!("{long}a")], Err("authorization: a token of more than 8192 bytes"));
    }

    #[test]
    fn a_token_says_of_itself_when_it_ends_and_for_whom_it_is() {
        let claims = |payload: &Value| Bearer::new(&token(payload)).claims();
        let audiences = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
        let want = Claims { ends_wall_secs: Some(7), audiences: audiences(&["a", "b"]) };
        assert_eq!(claims(&json!({"exp": 7, "aud": ["a", "b"]})), Some(want));
        let want = Claims { ends_wall_secs: None, audiences: audiences(&["a"]) };
        assert_eq!(claims(&json!({"exp": "soon", "aud": "a"})), Some(want));
        for none in ["", "a", "a.b", "a.b.c", "e30.e30", "e30.e30.a.b", "e30.W10.a", "..", "e30.%.a"] {
            assert_eq!(Bearer::new(none).claims(), None, "{none}");
        }
        assert_eq!(Bearer::new("e30.e30.a").claims(), Some(Claims::default()));
    }

    #[test]
    fn the_hash_is_sha_256() {
        let hex: String = Bearer::new("abc").hash.iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(hex, "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad", "FIPS 180-4, B.1");
    }
}
