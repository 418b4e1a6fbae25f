/* main.c: finds the command, reads its options, runs it; help for all of them. */
#include <locale.h>
#include <stdio.h>
#include <string.h>

#include "kept/kept.h"

#include "commands.h"
#include "options.h"
#include "terminal.h"

struct command {
    const char *name, *args, *summary, *examples;
    uint32_t bit, n_args, n_optional;
    enum cli_exit (*run)(const struct cli_settings *settings);
};

/* clang-format off */
static const struct command commands[] = {
    { "run", "MODEL", "one answer to a prompt",
      "  kept run model.gguf -p \"Why is the sky blue?\"\n"
      "  kept run model.gguf -f question.txt --device vulkan --memory 600MiB\n"
      "  echo \"Once upon a time\" | kept run model.gguf --raw -n 64 --temp 0\n"
      "  kept run model.gguf -p Hello --json --seed 1\n"
      "  kept run model.gguf -f book.txt --context 8192 --kv q8_0 --retain scored "
      "--retain-budget 25%\n"
      "  kept run model.gguf -f book.txt --context 8192 --assoc 512 --memory-svg memory.svg\n"
      "  kept run model.gguf --facts my.facts -p \"Where is the office?\"\n\n"
      "The prompt comes from -p, from -f, or from standard input when that is not a terminal.\n",
      CLI_RUN, 1, 0, cli_run },
    { "chat", "MODEL", "a conversation",
      "  kept chat model.gguf\n"
      "  kept chat model.gguf --system \"You are brief.\" --session talk.kept\n"
      "  kept chat model.gguf --facts my.facts\n"
      "  printf 'Hi\\nWho are you?\\n' | kept chat model.gguf --quiet\n\n"
      "Inside: /help /plan /memory [FILE] /reset /save FILE /load FILE /system TEXT /exit, and\n"
      "with --facts /remember [#TAG] TEXT, /forget #TAG|ID|TEXT, /facts; Ctrl-C stops an answer,\n"
      "Ctrl-D ends the conversation.\n",
      CLI_CHAT, 1, 0, cli_chat },
    { "plan", "MODEL", "what would be used, byte by byte, and why",
      "  kept plan model.gguf --context 8192\n"
      "  kept plan model.gguf --memory 300MiB --json\n"
      "  kept devices --json > laptop.json; kept plan model.gguf --profile laptop.json\n"
      "  kept plan model.gguf --regions --svg plan.svg\n"
      "  kept plan model.gguf --context 8192 --retain scored --retain-budget 25%\n\n"
      "Needs only the model's header. Exit code 4 when the plan does not fit.\n",
      CLI_PLAN, 1, 0, cli_plan },
    { "devices", "", "every device, every face of it, and why others are not usable",
      "  kept devices\n"
      "  kept devices --json > laptop.json\n",
      CLI_DEVICES, 0, 0, cli_devices },
    { "inspect", "FILE", "what is in a model file or a sidecar",
      "  kept inspect model.gguf\n"
      "  kept inspect model.kept\n"
      "  kept inspect model.gguf --tensors --json\n",
      CLI_INSPECT, 1, 0, cli_inspect },
    { "tokenize", "MODEL", "text to token ids and back",
      "  kept tokenize model.gguf -p \"Hello, world!\"\n"
      "  kept tokenize model.gguf -f text.txt --special --json\n"
      "  echo \"19556 28 905 17\" | kept tokenize model.gguf --decode\n",
      CLI_TOKENIZE, 1, 0, cli_tokenize },
    { "eval", "ppl MODEL", "how well a model predicts a text",
      "  kept eval ppl model.gguf -f text.txt\n"
      "  kept eval ppl model.gguf -f text.txt --context 2048 --chunks 4 --json\n"
      "  kept eval ppl model.gguf -f text.txt --context 4096 --stream --from 1024\n"
      "  kept eval kl model.gguf -f text.txt --retain scored --retain-budget 25%\n"
      "  kept eval needle model.gguf -f text.txt --retain scored --retain-budget 25%\n"
      "  kept eval kl model.gguf -f text.txt --sweep --out sweep.html\n"
      "  kept eval facts model.gguf --facts my.facts -f questions.jsonl --add\n\n"
      "ppl scores as llama-perplexity does: chunks of --context tokens, the second half of each.\n"
      "kl compares the settings with everything kept: a prefix of --context tokens (2048), then\n"
      "the 512 tokens after it. copy scores a repetition of 192 tokens of the prefix instead;\n"
      "needle asks for numbers that stood in it. facts asks what --facts knows: -f has JSON lines\n"
      "with id, query, paraphrase, answer, and text to --add.\n",
      CLI_EVAL, 2, 0, cli_eval },
    { "fit", "MODEL", "head budgets for a model, from reading texts twice",
      "  kept fit model.gguf -f novel.txt\n"
      "  kept fit model.gguf -f one.txt -f two.txt -f three.txt -o model.kept\n\n"
      "Writes the sidecar that --retain scored looks for beside the model, and measures on the\n"
      "rest of the text what half, a quarter and an eighth of the slots cost.\n",
      CLI_FIT, 1, 0, cli_fit },
    { "facts", "STORE WHAT", "an episodic memory: facts to write, find, forget, check",
      "  kept facts my.facts add --model model.gguf --text \"The office moved to Mill Lane.\"\n"
      "  kept facts my.facts add --model model.gguf -f facts.jsonl --payload q8_0\n"
      "  kept facts my.facts add -m model.gguf --tag office --text \"The office is in High "
      "Street.\"\n"
      "  kept facts my.facts list\n"
      "  kept facts my.facts search -m model.gguf \"Where is the office?\"\n"
      "  kept facts my.facts forget --tag office\n"
      "  kept facts my.facts verify\n"
      "  kept facts my.facts export > facts.jsonl\n"
      "  kept run model.gguf --facts my.facts -p \"Where is the office?\"\n\n"
      "WHAT is add, list, search TEXT, forget, verify, repair, export or compact.\n"
      "A line of FILE is {\"id\": ID, \"tag\": TAG, \"text\": TEXT}; only text is needed.\n"
      "A fact takes the place of what had its tag. forget overwrites a fact at once;\n"
      "compact makes the file smaller. repair keeps what is sound. verify: exit code 3 for\n"
      "damage.\n",
      CLI_FACTS, 2, 1, cli_facts },
    { "selftest", "", "every kernel on this device against the reference",
      "  kept selftest --device vulkan\n"
      "  kept selftest --device opencl --report report.json\n"
      "  kept selftest --kernel matvec --format Q4_K --bench\n",
      CLI_SELFTEST, 0, 0, cli_selftest },
};
/* clang-format on */

static const char *const later[] = {"bench", "tune", "serve", NULL};

#define N_COMMANDS (sizeof commands / sizeof *commands)

static void print_commands(FILE *to)
{
    for (size_t i = 0; i < N_COMMANDS; i++) {
        char left[40];
        snprintf(left, sizeof left, "%s %s", commands[i].name, commands[i].args);
        fprintf(to, "  kept %-18s %s\n", left, commands[i].summary);
    }
}

static enum cli_exit print_help(void)
{
    printf("kept %s: language models on any GPU, inside an exact memory plan\n\n", kept_version());
    print_commands(stdout);
    puts("\n'kept COMMAND --help' shows options and examples.\n\n"
         "Exit codes: 0 done, 1 failed, 2 wrong usage or prompt, 3 unusable file, 4 does not fit "
         "the\n"
         "budget, 5 no usable device, 130 cancelled.");
    return CLI_OK;
}

static enum cli_exit print_command_help(const struct command *command)
{
    printf("kept %s %s [options]: %s\n\n", command->name, command->args, command->summary);
    cli_options_print(stdout, command->bit);
    printf("\nExamples:\n%s", command->examples);
    return CLI_OK;
}

static const struct command *find(const char *name)
{
    for (size_t i = 0; i < N_COMMANDS; i++)
        if (strcmp(commands[i].name, name) == 0)
            return &commands[i];
    return NULL;
}

static enum cli_exit unknown(const char *name, int argc, char **argv)
{
    const char *names[N_COMMANDS + 1];
    struct cli_settings settings = {0};
    struct kept_error err;
    for (size_t i = 0; i < N_COMMANDS; i++)
        names[i] = commands[i].name;
    names[N_COMMANDS] = NULL;
    for (int i = 0; i < argc; i++)
        settings.json |= strcmp(argv[i], "--json") == 0;
    const char *near = cli_nearest(name, names);
    cli_fail(&err, KEPT_E_ARGUMENT, "there is no command '%.60s'%s%s%s", name, near ? "; is '" : "",
             near ? near : "", near ? "' meant?" : "");
    for (const char *const *l = later; *l; l++)
        if (strcmp(*l, name) == 0)
            cli_fail(&err, KEPT_E_ARGUMENT, "'kept %s' is not available in this version", name);
    enum cli_exit code = cli_report(&settings, &err);
    if (!settings.json) {
        fputs("The commands are:\n", stderr);
        print_commands(stderr);
    }
    return code;
}

static enum cli_exit run_command(const struct command *command, int argc, char **argv)
{
    struct cli_settings settings = {.command = command->name};
    struct kept_error err = {0};
    kept_status status = cli_options_parse(&settings, command->bit, argc, argv, &err);
    if (status == KEPT_OK && settings.help)
        return print_command_help(command);
    uint32_t most = command->n_args + command->n_optional;
    if (status == KEPT_OK && settings.n_args > most)
        status = cli_fail(&err, KEPT_E_ARGUMENT,
                          "'%.100s' is one argument too many; usage: kept %s %s [options]",
                          settings.args[most], command->name, command->args);
    if (status == KEPT_OK && settings.n_args < command->n_args)
        status = cli_fail(&err, KEPT_E_ARGUMENT,
                          "usage: kept %s %s [options]; 'kept %s --help' shows more", command->name,
                          command->args, command->name);
    if (status != KEPT_OK)
        return cli_report(&settings, &err);
    cli_interrupt_install();
    return command->run(&settings);
}

int main(int argc, char **argv)
{
    setlocale(LC_CTYPE, "");
    if (argc < 2 || strcmp(argv[1], "--help") == 0 || strcmp(argv[1], "-h") == 0 ||
        (strcmp(argv[1], "help") == 0 && argc < 3)) {
        print_help();
        return argc < 2 ? CLI_USAGE : CLI_OK;
    }
    if (strcmp(argv[1], "--version") == 0) {
        printf("kept %s\n", kept_version());
        return CLI_OK;
    }
    bool wants_help = strcmp(argv[1], "help") == 0;
    const char *name = argv[wants_help ? 2 : 1];
    const struct command *command = find(name);
    if (!command)
        return unknown(name, argc, argv);
    return wants_help ? print_command_help(command) : run_command(command, argc - 2, argv + 2);
}
