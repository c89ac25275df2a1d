# Completion of lora-cli for bash. Bash splits hf://org/name, vllm@0.33 and --engine=vllm at COMP_WORDBREAKS and replaces
# the last part only: here the parts are joined before they are completed, and what bash keeps is cut off afterwards.
_lora_cli_completion() {
    local IFS=$'\n' word begun within="" words=()
    for word in "${COMP_WORDS[@]:0:COMP_CWORD+1}"; do
        local breaks=""
        [[ -n $word && -z ${word//[@:=]/} ]] && breaks=1
        if [[ ${#words[@]} -gt 1 && -n $breaks$within ]]; then
            words[${#words[@]}-1]+=$word
        else
            words+=("$word")
        fi
        within=$breaks
    done
    begun=${words[${#words[@]}-1]}
    COMPREPLY=($(env COMP_WORDS="${words[*]}" COMP_CWORD=$((${#words[@]}-1)) _LORA_CLI_COMPLETE=complete_bash "$1"))
    local option="" kept=""
    if [[ $begun == -*=* ]]; then
        option=${begun%%=*}= begun=${begun#*=}
    fi
    if [[ $begun == *:* && $COMP_WORDBREAKS == *:* ]]; then
        kept=${begun%:*}:
    elif [[ $begun == *@* && $COMP_WORDBREAKS == *@* ]]; then
        kept=${begun%@*}
    fi
    COMPREPLY=("${COMPREPLY[@]#"$kept"}")
    if [[ -n $option && -z $kept && $COMP_WORDBREAKS != *=* ]]; then
        COMPREPLY=("${COMPREPLY[@]/#/$option}")
    fi
}

complete -o default -F _lora_cli_completion lora-cli
