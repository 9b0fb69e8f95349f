//! kontiki-agent
