#pragma once

// The chat page over HTTP. It holds no data and needs no key; what it asks of the API does. Strict
// headers: no code, style or connection but from here, no inline script, no frame around it.

#include <string_view>

#include "master/api/http_exchange.h"
#include "master/chat_page/page_files.h"

namespace fathom::master {

// "/" is index.html, "/page/NAME" any other file. Null when there is none.
const PageFile* FindPageFile(std::string_view path);

// The file, or 304 when `if_none_match` (empty: none) names what it holds.
HttpReply PageReply(const PageFile& file, std::string_view if_none_match);

}  // namespace fathom::master
