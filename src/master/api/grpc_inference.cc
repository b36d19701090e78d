#include "master/api/grpc_inference.h"

#include <functional>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/status_macros.h"
#include "master/api/caller.h"
#include "master/api/find_model.h"
#include "master/serving/failure.h"
#include "master/serving/prompt.h"

namespace fathom::master {
namespace {

constexpr int kDetokenizeMax = 1 << 20;

// `body` gets what the ask's body is a view of.
absl::StatusOr<ResumeAsk> ReadAsk(const v1::GenerateRequest& request, std::string* body) {
  v1::GenerateRequest bare = request;
  bare.clear_idempotency_key();
  bare.clear_resume_seconds();
  bare.clear_resume_token();
  bare.clear_first_try();
  *body = bare.SerializeAsString();
  ResumeAsk ask{.idempotency_key = request.idempotency_key(),
                .token = request.resume_token(),
                .first_try = request.first_try(),
                .body = *body};
  if (request.resume_seconds() != 0) {
    ASSIGN_OR_RETURN(ask.hold, ParseHold(absl::StrCat(request.resume_seconds())));
  }
  return ask;
}

}  // namespace

GrpcInference::GrpcInference(const GrpcInferenceOptions& options, boost::asio::io_context& io,
                             Serving* serving, const ApiKeys* keys, GrpcCalls* calls)
    : options_(options),
      io_(io),
      serving_(serving),
      keys_(keys),
      host_{.service = this,
            .serving = serving,
            .calls = calls,
            .client_backlog_bytes = options.client_backlog_bytes,
            .open = [this](const grpc::ServerContext& context, const v1::GenerateRequest& request,
                           Principal* principal) { return Open(context, request, principal); }} {}

void GrpcInference::AddTo(grpc::ServerBuilder& builder) {
  for (int i = 0; i < options_.threads; ++i) {
    lanes_.push_back(std::make_unique<Lane>(builder.AddCompletionQueue(), io_));
  }
}

void GrpcInference::Begin() {
  for (const auto& lane : lanes_) {
    ServeGenerate(host_, lane->loop, lane->scratch);
    // Short prompts are prepared there, templates and all.
    lane->loop.Start(text::kDeepStackBytes);
  }
}

void GrpcInference::End() {
  for (const auto& lane : lanes_) lane->loop.Stop();
}

absl::StatusOr<OpenedGenerate> GrpcInference::Open(const grpc::ServerContext& context,
                                                   const v1::GenerateRequest& request,
                                                   Principal* principal) {
  ASSIGN_OR_RETURN(*principal, AuthenticateGrpc(context, *keys_));
  if (serving_->draining()) {
    return WithRetryAfter(absl::UnavailableError("the server is shutting down"), absl::Seconds(1));
  }
  std::string body;  // outlives `ask`
  ASSIGN_OR_RETURN(const ResumeAsk ask, ReadAsk(request, &body));
  const RequestDraw draw = DrawOf(ask, serving_->resume_keys(), *principal, serving_->NewId());
  const CatalogPtr catalog = serving_->catalog();
  OpenedGenerate opened;
  ASSIGN_OR_RETURN(opened.request, FromProto(request, *catalog, options_.bounds, draw.draw()));
  GenerationRequest& parsed = opened.request;
  ASSIGN_OR_RETURN(opened.resume, PlanResumption(ask, serving_->resume_keys(), *principal, draw.id,
                                                 absl::ToUnixSeconds(serving_->clock().Now()),
                                                 static_cast<size_t>(parsed.n)));
  if (catalog->IsRoute(request.model())) opened.resume.model = MarkOf(parsed.model->name);
  parsed.id = opened.resume.id;
  parsed.resumption = opened.resume.For(0, parsed.n);
  BelongTo(*principal, parsed);
  parsed.timeout = WithinDeadline(context, parsed.timeout);
  return opened;
}

grpc::ServerUnaryReactor* GrpcInference::ListModels(grpc::CallbackServerContext* context,
                                                    const v1::ListModelsRequest* /*request*/,
                                                    v1::ListModelsResponse* response) {
  grpc::ServerUnaryReactor* reactor = context->DefaultReactor();
  if (const auto principal = AuthenticateGrpc(*context, *keys_); !principal.ok()) {
    reactor->Finish(ToGrpc(principal.status()));
    return reactor;
  }
  const CatalogPtr catalog = serving_->catalog();
  const auto add = [&](const std::string& id, const ServedModelInfo& model) {
    v1::ModelInfo* info = response->add_models();
    info->set_id(id);
    info->set_context_length(model.context_length);
    info->set_created(absl::ToUnixSeconds(model.created));
    info->set_ready_workers(serving_->ReadyWorkers(model));
  };
  for (const CatalogRoute& route : catalog->routes()) {
    if (const ModelPtr model = catalog->Find(route.name)) add(route.name, *model);
  }
  for (const ModelPtr& model : catalog->models()) {
    if (!catalog->IsRoute(model->name)) add(model->name, *model);
  }
  reactor->Finish(grpc::Status::OK);
  return reactor;
}

grpc::ServerUnaryReactor* GrpcInference::OnPool(grpc::CallbackServerContext* context,
                                                std::function<absl::Status()> work) {
  grpc::ServerUnaryReactor* reactor = context->DefaultReactor();
  if (const auto principal = AuthenticateGrpc(*context, *keys_); !principal.ok()) {
    reactor->Finish(ToGrpc(principal.status()));
    return reactor;
  }
  const bool accepted = serving_->pool().Submit(
      [reactor, work = std::move(work)] { reactor->Finish(ToGrpc(work())); });
  if (!accepted) {
    reactor->Finish(ToGrpc(absl::ResourceExhaustedError("too much work waits for the CPU")));
  }
  return reactor;
}

grpc::ServerUnaryReactor* GrpcInference::Tokenize(grpc::CallbackServerContext* context,
                                                  const v1::TokenizeRequest* request,
                                                  v1::TokenizeResponse* response) {
  return OnPool(context, [this, request, response]() -> absl::Status {
    ASSIGN_OR_RETURN(const ModelPtr model,
                     FindModel(*serving_->catalog(), request->model(), {}, "model"));
    PromptInput input = TextPrompt{request->text()};
    if (request->has_chat()) {
      ToolUse unused;
      ASSIGN_OR_RETURN(input, ReadChatInput(request->chat(), *model, unused));
    } else if (!request->has_text()) {
      return BadField("input", "the request has no input");
    }
    ASSIGN_OR_RETURN(const TokenizedPrompt prompt, TokenizePrompt(*model, input));
    response->mutable_token_ids()->Add(prompt.tokens.begin(), prompt.tokens.end());
    return absl::OkStatus();
  });
}

grpc::ServerUnaryReactor* GrpcInference::Detokenize(grpc::CallbackServerContext* context,
                                                    const v1::DetokenizeRequest* request,
                                                    v1::DetokenizeResponse* response) {
  return OnPool(context, [this, request, response]() -> absl::Status {
    ASSIGN_OR_RETURN(const ModelPtr model,
                     FindModel(*serving_->catalog(), request->model(), {}, "model"));
    if (request->token_ids_size() > kDetokenizeMax) {
      return BadField("token_ids", absl::StrCat("at most ", kDetokenizeMax, " tokens"));
    }
    const std::vector<TokenId> ids(request->token_ids().begin(), request->token_ids().end());
    ASSIGN_OR_RETURN(*response->mutable_text(),
                     model->tokenizer->Decode(ids, request->skip_special_tokens()));
    return absl::OkStatus();
  });
}

}  // namespace fathom::master
