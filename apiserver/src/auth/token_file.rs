//! Static tokens: lines of `token,user,uid,"group1,group2"`.

use std::collections::HashMap;
use std::sync::Arc;

use sha2::{Digest, Sha256};

use super::User;

/// Users by the digest of their token, so that a lookup's time tells nothing about a token.
#[derive(Debug, Default)]
pub struct TokenFile {
    users: HashMap<[u8; 32], Arc<User>>,
}

impl TokenFile {
    /// Empty lines and lines that begin with `#` are skipped. The error names the line.
    pub fn parse(text: &str) -> Result<TokenFile, String> {
        let mut users = HashMap::new();
        for (number, line) in text.lines().enumerate().map(|(index, line)| (index + 1, line.trim())) {
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let fields = split(line).ok_or_else(|| format!("line {number} has an open quote"))?;
            let [token, name, uid, rest @ ..] = fields.as_slice() else {
                return Err(format!("line {number} needs at least token, user name and uid"));
            };
            if token.is_empty() || name.is_empty() {
                return Err(format!("line {number} has an empty token or user name"));
            }
            let groups = rest.first().map(String::as_str).unwrap_or_default();
            let groups = groups.split(',').map(str::trim).filter(|group| !group.is_empty());
            let mut user = User::new(name, groups);
            user.uid = uid.clone();
            if users.insert(digest(token), Arc::new(user.authenticated())).is_some() {
                return Err(format!("line {number} repeats a token"));
            }
        }
        Ok(TokenFile { users })
    }

    pub fn user(&self, token: &str) -> Option<Arc<User>> {
        self.users.get(&digest(token)).cloned()
    }
}

pub(super) fn digest(token: &str) -> [u8; 32] {
    Sha256::digest(token.as_bytes()).into()
}

/// Fields between commas; a field in double quotes may hold commas, and two quotes for one.
fn split(line: &str) -> Option<Vec<String>> {
    let mut fields = vec![String::new()];
    let mut quoted = false;
    let mut chars = line.chars().peekable();
    while let Some(c) = chars.next() {
        let field = fields.last_mut()?;
        match c {
            '"' if quoted && chars.peek() == Some(&'"') => {
                field.push('"');
                chars.next();
            }
            '"' => quoted = !quoted,
            ',' if !quoted => fields.push(String::new()),
            c => field.push(c),
        }
    }
    (!quoted).then_some(fields.into_iter().map(|field| field.trim().to_string()).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_gives_name_uid_and_groups() {
        let file = TokenFile::parse("# staff\n\nt1, jane ,u1,\"dev,ops\"\nt2,joe,u2\n").expect("parses");
        let jane = file.user("t1").expect("known");
        assert_eq!((jane.name.as_str(), jane.uid.as_str()), ("jane", "u1"));
        assert_eq!(jane.groups, ["dev", "ops", "system:authenticated"]);
        assert_eq!(file.user("t2").expect("known").groups, ["system:authenticated"]);
        assert_eq!(file.user("t3"), None);
    }

    #[test]
    fn bad_lines_are_named() {
        for (text, line) in [
            ("a,b", "line 1"),
            ("a,b,c\n,b,c", "line 2"),
            ("a,b,c,\"x", "line 1"),
            ("a,b,c\na,d,e", "line 2"),
        ] {
            let error = TokenFile::parse(text).expect_err(text);
            assert!(error.starts_with(line), "{text}: {error}");
        }
    }
}
